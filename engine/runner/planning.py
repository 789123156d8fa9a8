"""The input of the training runs of a request: inspect the data, plan, and write what trainers read."""

from __future__ import annotations

import hashlib
import json
from functools import partial

from engine.config import RunConfig, decisive, from_yaml, to_yaml
from engine.config.data_checks import check_pieces
from engine.config.distill import LabelsFile
from engine.dataset import DatasetInfo, inspect_request
from engine.dataset.checks.class_name_checks import check_class_names, find_vocabulary, of_language
from engine.dataset.export_layouts import find_single_split
from engine.errors import ConfigError, DataError
from engine.estimate.forecast import check_layers
from engine.manifest import DistillManifest, Manifest
from engine.plan import TrainingRun, plan
from engine.results.run_files import publication
from engine.storage import Storage
from engine.storage.base_model_identity import base_digest

ELSEWHERE = "move {} away, train into another output, or give `teacher run --again` (again=True) to replace it"


def prepare(
    manifest: Manifest | DistillManifest, storage: Storage, *, labels: LabelsFile | None = None
) -> tuple[DatasetInfo, tuple[TrainingRun, ...]]:
    """Inspect the data and plan the training runs; nothing is written.

    Unlabelled images need labels: see :func:`engine.runner.label_unlabelled`. To check a request before they exist,
    give what is known of them as ``labels``; by default the file is read.

    Before a GPU is used, this also checks that the user's retention data exists, that the base has the layers that
    are skipped, and that the base's tokenizer can read the class names.
    """
    info = inspect_request(manifest.spec.dataset, storage=storage)
    unlabelled = manifest.spec.unlabelled if isinstance(manifest, DistillManifest) else None
    if labels is None and unlabelled is not None and unlabelled.labels is not None:
        labels = _labels_file(unlabelled.labels, storage)
    runs = plan(manifest, info, base_digest=partial(base_digest, storage=storage), labels=labels)
    check_layers(runs[0].config, storage)
    teachers, prompts = runs[0].config.teachers, runs[0].config.data.prompts
    if teachers.reader is not None and (reader := teachers.of(teachers.reader)) is not None:
        vocabulary = find_vocabulary(reader.base_model, reader.revision, storage=storage)
        if vocabulary is not None:
            title = teachers.reader.traits.title
            check_pieces(runs[0].config.data.classes, prompts, vocabulary, reader=title)
        info = check_class_names(info, prompts, of_language(vocabulary))
    retention = runs[0].config.training.retention
    if retention is not None:
        find_single_split(retention.annotations, retention.images, storage=storage)
    return info, runs


def begin(info: DatasetInfo, runs: tuple[TrainingRun, ...], storage: Storage) -> None:
    """Write the input of the training runs of a request: the configuration, and the result of inspection.

    Nothing is deleted: it can be repeated while the training runs are active or published.

    Raises:
        ConfigError: Another configuration exists: it was copied there, or edited since.
        StorageError: The store cannot keep attempts apart that publish at the same moment.
    """
    config, layout = runs[0].config, runs[0].layout
    if storage.exists(layout.config) and not _is_same(storage.read_bytes(layout.config), config):
        raise ConfigError(
            f"{layout.config} is not the configuration of this run, whose folder that is: it was edited or copied "
            f"there; {ELSEWHERE.format(layout.root)}"
        )
    told = publication(layout, storage=storage).check()
    if told is not None:
        storage.note(told)
    storage.write_bytes(layout.config, to_yaml(config).encode(), content_type="application/yaml")
    storage.write_bytes(layout.dataset, info.model_dump_json(indent=2).encode(), content_type="application/json")


def _labels_file(uri: str, storage: Storage) -> LabelsFile:
    content = storage.read_bytes(uri)
    try:
        images = len(json.loads(content)["images"])
    except (ValueError, LookupError, TypeError, RecursionError):
        raise DataError(f"{uri} is not labels with scores: give the COCO JSON that `teacher label` writes") from None
    return LabelsFile(hashlib.sha256(content).hexdigest(), images)


def _is_same(text: bytes, config: RunConfig) -> bool:
    """Return True if two configurations differ only in locations and reporting."""
    try:
        there = from_yaml(text.decode())
    except (ConfigError, UnicodeDecodeError):
        return False
    same = (there.name, there.run_id) == (config.name, config.run_id)
    return same and decisive(there.model_dump()) == decisive(config.model_dump())

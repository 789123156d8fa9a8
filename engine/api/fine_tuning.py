"""Public functions on a dataset: inspect it, and fine-tune teachers on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import dataset, runner
from engine.api.arguments import Fields, choice_of, dataset_fields, open_storage, teacher_fields, yaml_text
from engine.dataset.types import DatasetInfo
from engine.manifest import Manifest
from engine.results.events import Listener, ignore_event
from engine.results.no_gain import check_gain
from engine.results.run_files import RunMetadata
from engine.results.types import TeacherResult
from engine.spec import AugmentationSpec, Crowds, DatasetSpec, FineTuneSpec, StorageSpec, TeacherSpec, TrainingSpec
from engine.spec.base import NUMBERS
from engine.text.pydantic_errors import parse


@dataclass(frozen=True)
class FineTuned:
    """A published run.

    Attributes:
        uri: Folder of the run, ``<output>/<name>/<run id>``, as :func:`label` takes it.
        metadata: What is in it, as in its ``metadata.json``.
    """

    uri: str
    metadata: RunMetadata

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.metadata.name

    @property
    def run_id(self) -> str:
        """Id of the run, which follows from its data and settings."""
        return self.metadata.run_id

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of class indices."""
        return self.metadata.classes

    @property
    def teachers(self) -> tuple[TeacherResult, ...]:
        """Result of each teacher, with its AP before and after and the URI of its adapter."""
        return self.metadata.teachers


def inspect_dataset(
    annotations: str | Path,
    images: str | Path | None = None,
    *,
    crowds: Crowds | str = Crowds.IGNORE,
    storage: StorageSpec | Fields | None = None,
) -> DatasetInfo:
    """Inspect a COCO dataset: its contents and its problems.

    Args:
        annotations: COCO instances JSON, or the folder of a Roboflow, CVAT or Label Studio export.
        images: Folder of the images; default: next to the annotations.
        crowds: Meaning of annotations with ``iscrowd: 1``: ``Ignore`` or ``Objects``.
        storage: Access to object storage; default: by the environment.

    Raises:
        TeacherError: The kind names the cause.
    """
    chosen = choice_of(Crowds, crowds, "crowds")
    return dataset.inspect_dataset(annotations, images, storage=open_storage(storage), crowds=chosen)


def fine_tune(
    data: str | Path | DatasetSpec | Fields,
    *,
    output: str | Path,
    images: str | Path | None = None,
    name: str = "run",
    teachers: Sequence[str | TeacherSpec | Fields] = (),
    class_prompts: Mapping[str, str] | None = None,
    augmentation: AugmentationSpec | Fields | None = None,
    training: TrainingSpec | Fields | None = None,
    storage: StorageSpec | Fields | None = None,
    settings: Mapping[str, Any] | None = None,
    listener: Listener = ignore_event,
    work_dir: Path | None = None,
    again: bool = False,
) -> FineTuned:
    """Inspect the data, train the teachers and publish their adapters, as ``teacher run`` does with a manifest.

    Arguments are the fields of :class:`engine.spec.FineTuneSpec`; unset values follow from the data. Decimal numbers,
    which a manifest has in quotes, may be numbers: ``{"learning_rate": 1e-4}``.

    Args:
        data: Annotations, or the dataset with its splits.
        output: Where artifacts go, under ``<output>/<name>/<run id>/``.
        images: Folder of the images; default: next to the annotations.
        name: Name of the run: lower-case letters, digits and ``-``.
        teachers: Names, or teachers with their settings; default: those the data calls for.
        class_prompts: Phrases for class names.
        augmentation: Characteristics of the objects and their environment.
        training: Settings of every teacher.
        storage: Access to object storage.
        settings: Settings by their path in ``teacher_config.yaml``, such as ``{"teachers.*.clip_norm": 0.5}``.
        listener: Receives the progress events.
        work_dir: Scratch folder; default: one of this request in the cache folder.
        again: Train even if this very run is published.

    Returns:
        The published run: its folder, and the result of each teacher.

    Raises:
        TeacherError: The kind names the cause; NotBetterThanBaseError after publishing, if ``training.on_no_gain`` is
            ``Fail``.
    """
    given = {
        "dataset": dataset_fields(data, images),
        "output": str(output),
        "class_prompts": class_prompts,
        "augmentation": augmentation,
        "training": training,
        "storage": storage,
        "settings": {path: yaml_text(value) for path, value in (settings or {}).items()},
        "teachers": teacher_fields(teachers),
    }
    spec = {field: value for field, value in given.items() if value is not None}
    asked = parse(FineTuneSpec, spec, where="the request", by_name=True, context=NUMBERS)
    manifest = parse(Manifest, {"name": name, "spec": asked}, where="the request")
    access = open_storage(asked.storage)
    info, runs = runner.prepare(manifest, access)
    done = runner.run_stages(info, runs, access, listener=listener, work_dir=work_dir, again=again)
    check_gain(done.teachers, runs[0].config.training.on_no_gain)
    return FineTuned(runs[0].layout.root, done)

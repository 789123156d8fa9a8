"""The public functions of :mod:`engine`: each takes paths or URIs, and needs no other object.

    import engine

    engine.inspect_dataset("data/annotations.json")
    run = engine.fine_tune("data/annotations.json", images="data/images/", output="out/")
    engine.label("out/run/4f2a90c1d3e5", "new/", output="out/labels.json")
    engine.evaluate(run.teachers[0].adapter.uri, "unseen/annotations.json").adapted.metrics.ap
    engine.load_adapted(run.teachers[0].adapter.uri).predict(samples)

Credentials and endpoints of object storage come from the environment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import runner
from engine.dataset import inspect_dataset
from engine.layout import ADAPTER
from engine.manifest import Manifest
from engine.results.events import Event, Listener
from engine.results.no_gain import check_gain
from engine.results.run_files import RunMetadata
from engine.spec import (
    AugmentationSpec,
    Crowds,
    DatasetSpec,
    ExifOrientation,
    FineTuneSpec,
    StorageSpec,
    TeacherSpec,
    TrainingSpec,
)
from engine.storage import Storage, StorageOptions, default_cache
from engine.text.pydantic_errors import parse

if TYPE_CHECKING:
    from engine.evaluation.adapter_evaluation import AdapterEvaluation
    from engine.labelling import Labelled
    from engine.models.base import Teacher

__all__ = ["evaluate", "fine_tune", "inspect_dataset", "label", "load_adapted"]

Fields = Mapping[str, Any]
"""Fields of a part of the spec by their Python names: ``{"name": "Sam", "base_model": "bases/sam"}``."""


def _silent(event: Event) -> None:
    pass


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
    listener: Listener = _silent,
    work_dir: Path | None = None,
    again: bool = False,
) -> RunMetadata:
    """Inspect the data, train the teachers and publish their adapters, as ``teacher run`` does with a manifest.

    Arguments are the fields of :class:`engine.spec.FineTuneSpec`; unset values follow from the data.

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
        What was published: the result of each teacher, with its AP before and after and the URI of its adapter.

    Raises:
        TeacherError: The kind names the cause; NotBetterThanBaseError after publishing, if ``training.on_no_gain`` is
            ``Fail``.
    """
    given = {
        "dataset": _dataset_fields(data, images),
        "output": str(output),
        "class_prompts": class_prompts,
        "augmentation": augmentation,
        "training": training,
        "storage": storage,
        "settings": {path: _yaml(value) for path, value in (settings or {}).items()},
        "teachers": [{"name": one} if isinstance(one, str) else one for one in teachers],
    }
    spec = {field: value for field, value in given.items() if value is not None}
    asked = parse(FineTuneSpec, spec, where="the request", by_name=True)
    manifest = parse(Manifest, {"name": name, "spec": asked}, where="the request")
    access = Storage(StorageOptions(**asked.storage.model_dump()))
    info, runs = runner.prepare(manifest, access)
    done = runner.run_stages(info, runs, access, listener=listener, work_dir=work_dir, again=again)
    check_gain(done.teachers, runs[0].config.training.on_no_gain)
    return done


def _dataset_fields(data: str | Path | DatasetSpec | Fields, images: str | Path | None) -> DatasetSpec | Fields:
    """Return the section ``dataset`` of the spec."""
    dataset = {"annotations": str(data)} if isinstance(data, str | Path) else data
    if images is None:
        return dataset
    fields = dataset.model_dump(exclude_unset=True) if isinstance(dataset, DatasetSpec) else dataset
    return {**fields, "images": str(images)}


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _folder(adapter: str | Path) -> str:
    """Return the folder of an adapter that may be given by its file, as ``result.adapter.uri`` is."""
    folder, slash, file = str(adapter).rpartition("/")
    if file == ADAPTER:
        return folder or slash or "."
    return str(adapter)


def label(
    adapters: str | Path | Sequence[str | Path],
    images: str | Path,
    output: str | Path,
    *,
    threshold: float | None = None,
    overlays: str | Path | None = None,
    batch_size: int = 4,
    again: bool = False,
    storage: Storage | None = None,
) -> Labelled | None:
    """Label a folder of images with the teachers of a run, and write COCO with scores.

    The same call resumes a labelling that was interrupted.

    Args:
        adapters: Folder of a run, or one or several adapters.
        images: Folder of the images.
        output: COCO JSON to write.
        threshold: Lowest score to keep; default: the measured threshold of each class.
        overlays: Folder for some images with their detections.
        batch_size: Images per forward pass.
        again: Label all images again.
        storage: Access to object storage; default: by the environment.

    Returns:
        Counts and URIs; None if the output has the labels of this very call already.

    Raises:
        TeacherError: The kind names the cause.
    """
    from engine.labelling import Overlays, label_folder
    from engine.models.load import load_labeller

    store = storage or Storage()
    several = [_folder(one) for one in ([adapters] if isinstance(adapters, str | Path) else adapters)]
    return label_folder(
        load_labeller(*several, threshold=threshold, storage=store),
        str(images),
        str(output),
        storage=store,
        batch_size=batch_size,
        again=again,
        overlays=None if overlays is None else Overlays(str(overlays)),
    )


def evaluate(
    adapter: str | Path,
    data: str | Path,
    images: str | Path | None = None,
    *,
    base_model: str | None = None,
    batch_size: int = 4,
    crowds: Crowds = Crowds.IGNORE,
    exif_orientation: ExifOrientation = ExifOrientation.AUTO,
    storage: Storage | None = None,
) -> AdapterEvaluation:
    """Evaluate an adapter and its base on a dataset by COCO AP.

    Args:
        adapter: Folder of the adapter, or its file.
        data: Annotations, as ``fine_tune`` takes them.
        images: Folder of the images; default: next to the annotations.
        base_model: Current location of the base, if it was moved after training.
        batch_size: Images per forward pass.
        crowds: Meaning of annotations with ``iscrowd: 1``.
        exif_orientation: Orientation of the images during annotation.
        storage: Access to object storage; default: by the environment.

    Raises:
        TeacherError: The kind names the cause.
    """
    from engine.evaluation.adapter_evaluation import evaluate_adapter

    return evaluate_adapter(
        _folder(adapter),
        str(data),
        None if images is None else str(images),
        base_model=base_model,
        batch_size=batch_size,
        crowds=crowds,
        exif_orientation=exif_orientation,
        storage=storage or Storage(),
        cache=default_cache(),
    )


def load_adapted(adapter: str | Path, *, teacher: str | None = None, **options: Any) -> Teacher:
    """Load a tuned teacher, ready to predict. Arguments as for :func:`engine.models.load.load_adapted`."""
    from engine.models import load

    return load.load_adapted(_folder(adapter), teacher=teacher, **options)

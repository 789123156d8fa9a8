"""The public functions of :mod:`engine`: each takes paths or URIs, and needs no other object.

    import engine

    engine.inspect_dataset("data/annotations.json")
    run = engine.fine_tune("data/annotations.json", images="data/images/", output="out/")
    engine.label(run.uri, "new/", output="out/labels.json")
    engine.evaluate(run.teachers[0].adapter.uri, "unseen/annotations.json").adapted.metrics.ap
    engine.load_adapted(run.teachers[0].adapter.uri).predict(samples)

Credentials and endpoints of object storage come from the environment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from engine import dataset, runner
from engine.dataset.types import NMS_IOU, DatasetInfo
from engine.errors import ConfigError
from engine.layout import ADAPTER
from engine.manifest import Manifest
from engine.results.events import Event, Listener
from engine.results.no_gain import check_gain
from engine.results.run_files import RunMetadata
from engine.results.types import TeacherResult
from engine.spec import (
    AugmentationSpec,
    Crowds,
    DatasetSpec,
    ExifOrientation,
    FineTuneSpec,
    StorageSpec,
    TeacherName,
    TeacherSpec,
    TrainingSpec,
)
from engine.spec.base import NUMBERS
from engine.spec.bounds import BATCH_SIZE, IOU, SCORE
from engine.storage import Storage, StorageOptions, default_cache
from engine.text.pydantic_errors import nearest, parse

if TYPE_CHECKING:
    import torch

    from engine.evaluation.adapter_evaluation import AdapterEvaluation
    from engine.evaluation.evaluate_predictions import PredictionEvaluation
    from engine.labelling import Labelled
    from engine.models.base import Teacher

__all__ = ["evaluate", "fine_tune", "inspect_dataset", "label", "load_adapted"]

Fields = Mapping[str, Any]
"""Fields of a part of the spec by their Python names: ``{"name": "Sam", "base_model": "bases/sam"}``."""


E = TypeVar("E", bound=StrEnum)


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


def _silent(event: Event) -> None:
    pass


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
    chosen = _choice(Crowds, crowds, "crowds")
    return dataset.inspect_dataset(annotations, images, storage=_access(storage), crowds=chosen)


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
        "dataset": _dataset_fields(data, images),
        "output": str(output),
        "class_prompts": class_prompts,
        "augmentation": augmentation,
        "training": training,
        "storage": storage,
        "settings": {path: _yaml(value) for path, value in (settings or {}).items()},
        "teachers": _teacher_fields(teachers),
    }
    spec = {field: value for field, value in given.items() if value is not None}
    asked = parse(FineTuneSpec, spec, where="the request", by_name=True, context=NUMBERS)
    manifest = parse(Manifest, {"name": name, "spec": asked}, where="the request")
    access = _access(asked.storage)
    info, runs = runner.prepare(manifest, access)
    done = runner.run_stages(info, runs, access, listener=listener, work_dir=work_dir, again=again)
    check_gain(done.teachers, runs[0].config.training.on_no_gain)
    return FineTuned(runs[0].layout.root, done)


def _access(storage: StorageSpec | Fields | None) -> Storage:
    """Return the access to object storage that a section ``storage`` of the spec describes."""
    spec = parse(StorageSpec, storage or {}, where="storage", by_name=True)
    return Storage(StorageOptions(**spec.model_dump()))


def _choice(kind: type[E], value: str, name: str) -> E:
    """Return a member of an enum by its value."""
    try:
        return kind(value)
    except ValueError:
        raise ConfigError(
            f"{name}: {value!r} is not allowed{nearest(str(value), [one.value for one in kind])}"
        ) from None


def _dataset_fields(data: str | Path | DatasetSpec | Fields, images: str | Path | None) -> DatasetSpec | Fields:
    """Return the section ``dataset`` of the spec."""
    section = {"annotations": str(data)} if isinstance(data, str | Path) else data
    if images is None:
        return section
    fields = section.model_dump(exclude_unset=True) if isinstance(section, DatasetSpec) else section
    return {**fields, "images": str(images)}


def _teacher_fields(teachers: Any) -> Any:
    """Return the list ``teachers`` of the spec; anything but a list is left to validation."""
    if not isinstance(teachers, list | tuple):
        return teachers
    return [{"name": one} if isinstance(one, str) else one for one in teachers]


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
    nms: float = NMS_IOU,
    overlays: str | Path | None = None,
    base_model: Mapping[str, str | Path] | None = None,
    batch_size: int = 4,
    again: bool = False,
    storage: StorageSpec | Fields | None = None,
) -> Labelled | None:
    """Label a folder of images with the teachers of a run, and write COCO with scores.

    The same call resumes a labelling that was interrupted.

    Args:
        adapters: Folder of a run, or one or several adapters.
        images: Folder of the images.
        output: COCO JSON to write.
        threshold: Lowest score to keep, 0 to 1; default: the measured threshold of each class.
        nms: Of two boxes of a class with a higher IoU than this, 0 to 1, only the one with the higher score is kept.
        overlays: Folder for some images with their detections.
        base_model: Current locations of base models that were moved after training, by teacher:
            ``{"Sam": "bases/sam"}``.
        batch_size: Images per forward pass.
        again: Label all images again.
        storage: Access to object storage; default: by the environment.

    Returns:
        Counts and URIs; None if the output has the labels of this very call already.

    Raises:
        TeacherError: The kind names the cause.
    """
    if threshold is not None:
        SCORE.check("threshold", threshold)
    IOU.check("nms", nms)
    BATCH_SIZE.check("batch_size", batch_size)
    bases = {_teacher(name): str(where) for name, where in (base_model or {}).items()}
    from engine.labelling import Overlays, label_folder
    from engine.models.load import load_labeller

    store = _access(storage)
    several = [_folder(one) for one in ([adapters] if isinstance(adapters, str | Path) else adapters)]
    return label_folder(
        load_labeller(*several, threshold=threshold, nms_iou=nms, base_models=bases, storage=store),
        str(images),
        str(output),
        storage=store,
        batch_size=batch_size,
        again=again,
        overlays=None if overlays is None else Overlays(str(overlays)),
    )


def _teacher(name: str) -> TeacherName:
    try:
        return TeacherName(name)
    except ValueError as error:
        raise ConfigError(f"base_model: {error}") from None


@overload
def evaluate(
    adapter: str | Path,
    data: str | Path,
    images: str | Path | None = None,
    *,
    base_model: str | Path | None = None,
    batch_size: int = 4,
    crowds: Crowds | str = Crowds.IGNORE,
    exif_orientation: ExifOrientation | str = ExifOrientation.AUTO,
    storage: StorageSpec | Fields | None = None,
) -> AdapterEvaluation: ...


@overload
def evaluate(
    *,
    data: str | Path,
    predictions: str | Path,
    images: str | Path | None = None,
    crowds: Crowds | str = Crowds.IGNORE,
    storage: StorageSpec | Fields | None = None,
) -> PredictionEvaluation: ...


def evaluate(
    adapter: str | Path | None = None,
    data: str | Path | None = None,
    images: str | Path | None = None,
    *,
    predictions: str | Path | None = None,
    base_model: str | Path | None = None,
    batch_size: int = 4,
    crowds: Crowds | str = Crowds.IGNORE,
    exif_orientation: ExifOrientation | str = ExifOrientation.AUTO,
    storage: StorageSpec | Fields | None = None,
) -> AdapterEvaluation | PredictionEvaluation:
    """Evaluate an adapter and its base on a dataset by COCO AP, or labels with scores.

    Args:
        adapter: Folder of the adapter, or its file.
        data: Annotations, as ``fine_tune`` takes them.
        images: Folder of the images; default: next to the annotations.
        predictions: Labels with scores, such as :func:`label` wrote, to evaluate instead of an adapter.
        base_model: Current location of the base, if it was moved after training.
        batch_size: Images per forward pass.
        crowds: Meaning of annotations with ``iscrowd: 1``: ``Ignore`` or ``Objects``.
        exif_orientation: Orientation of the images during annotation: ``Auto``, ``Applied`` or ``Ignored``.
        storage: Access to object storage; default: by the environment.

    Raises:
        TeacherError: The kind names the cause.
    """
    BATCH_SIZE.check("batch_size", batch_size)
    crowds = _choice(Crowds, crowds, "crowds")
    orientation = _choice(ExifOrientation, exif_orientation, "exif_orientation")
    if data is None:
        raise ConfigError("data is required: annotations to evaluate on")
    if (adapter is None) == (predictions is None):
        raise ConfigError("give either adapter or predictions")
    store, folder = _access(storage), None if images is None else str(images)
    if predictions is not None:
        from engine.dataset.predictions import load_predictions
        from engine.evaluation.evaluate_predictions import evaluate_predictions

        found = load_predictions(str(predictions), storage=store)
        return evaluate_predictions(dataset.load_dataset(str(data), folder, storage=store, crowds=crowds), found)
    from engine.evaluation.adapter_evaluation import evaluate_adapter

    return evaluate_adapter(
        _folder(str(adapter)),
        str(data),
        folder,
        base_model=None if base_model is None else str(base_model),
        batch_size=batch_size,
        crowds=crowds,
        exif_orientation=orientation,
        storage=store,
        cache=default_cache(),
    )


def load_adapted(
    adapter: str | Path,
    *,
    teacher: str | None = None,
    base_model: str | Path | None = None,
    device: str | torch.device | None = None,
    storage: StorageSpec | Fields | None = None,
) -> Teacher:
    """Load a tuned teacher, ready to predict.

    ``predict`` takes samples: ``engine.dataset.Sample.of(image)`` of an (H, W, 3) uint8 RGB array, or
    ``Sample.of(image, boxes_xyxy)`` with boxes in pixels that prompt it.

    Args:
        adapter: Folder of a run or of one adapter in it, or the file of the adapter.
        teacher: Name of the teacher, if the run has several.
        base_model: Current location of the base, if it was moved after training.
        device: Device of the model; default: the GPU if there is one.
        storage: Access to object storage; default: by the environment.

    Returns:
        The teacher with its adapter.

    Raises:
        BaseModelError: Adapter or base is unavailable, or they do not belong together.
        ConfigError: The run has several teachers, or not the requested one.
    """
    from engine.models import load

    return load.load_adapted(
        _folder(adapter),
        teacher=teacher,
        base_model=None if base_model is None else str(base_model),
        device=device,
        storage=_access(storage),
    )

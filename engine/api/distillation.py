"""Public functions on students: train them, and load them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import runner
from engine.api.arguments import Fields, artifact_fields, dataset_fields, open_storage, yaml_text
from engine.api.fine_tuning import FineTuned
from engine.manifest import DistillManifest
from engine.results.events import Listener, ignore_event
from engine.spec import ArtifactSpec, AugmentationSpec, DatasetSpec, StorageSpec
from engine.spec.base import NUMBERS
from engine.spec.distill import DistillSpec, DistillTrainingSpec, StudentSpec, UnlabelledSpec
from engine.text.pydantic_errors import parse

if TYPE_CHECKING:
    import torch

    from engine.models.student import Student


def distill(
    data: str | Path | DatasetSpec | Fields,
    *,
    output: str | Path,
    images: str | Path | None = None,
    name: str = "run",
    student: str | StudentSpec | Fields | None = None,
    teacher: str | Path | None = None,
    unlabelled: str | Path | UnlabelledSpec | Fields | None = None,
    optimize: Sequence[str | ArtifactSpec | Fields] = (),
    augmentation: AugmentationSpec | Fields | None = None,
    training: DistillTrainingSpec | Fields | None = None,
    storage: StorageSpec | Fields | None = None,
    settings: Mapping[str, Any] | None = None,
    listener: Listener = ignore_event,
    work_dir: Path | None = None,
    again: bool = False,
) -> FineTuned:
    """Train a student on human labels, and on those of teachers, as ``teacher distill`` does with a manifest.

    Arguments are the fields of :class:`engine.spec.distill.DistillSpec`; unset values follow from the data.

    Args:
        data: Annotations, or the dataset with its splits.
        output: Where artifacts go, under ``<output>/<name>/<run id>/``.
        images: Folder of the images; default: next to the annotations.
        name: Name of the run: lower-case letters, digits and ``-``.
        student: Name of the student, or its settings, such as ``{"size": "nano"}``.
        teacher: Folder of a run of teachers, or of an adapter. It labels the unlabelled images unless their labels are
            given, and the report compares the student with it.
        unlabelled: Folder of further training images without human labels; with ``{"labels": …}`` their labels with
            scores, as :func:`label` writes them.
        optimize: Formats to export the student to, by name or as ``{"format": "onnx-int8", "max_ap_drop": 0.02}``.
        augmentation: Characteristics of the objects and their environment.
        training: Settings of the training.
        storage: Access to object storage.
        settings: Settings by their path, such as ``{"students.*.ema_decay": 0.99}``.
        listener: Receives the progress events.
        work_dir: Scratch folder; default: one of this request in the cache folder.
        again: Train even if this very run is published.

    Returns:
        The published run; :func:`load_student` takes its folder. ``metadata.artifacts`` are the measurements of the
        exported files. One that loses too much AP is not in the folder; the student and the others are:
        :func:`engine.results.artifacts.refuse_lossy` raises an error for it.

    Raises:
        TeacherError: The kind names the cause.
    """
    given = {
        "dataset": dataset_fields(data, images),
        "output": str(output),
        "student": {"name": student} if isinstance(student, str) else student,
        "teacher": None if teacher is None else str(teacher),
        "unlabelled": {"images": str(unlabelled)} if isinstance(unlabelled, str | Path) else unlabelled,
        "optimize": artifact_fields(optimize),
        "augmentation": augmentation,
        "training": training,
        "storage": storage,
        "settings": {path: yaml_text(value) for path, value in (settings or {}).items()},
    }
    spec = {field: value for field, value in given.items() if value is not None}
    asked = parse(DistillSpec, spec, where="the request", by_name=True, context=NUMBERS)
    manifest = parse(DistillManifest, {"name": name, "spec": asked}, where="the request")
    runner.check_artifact_formats(manifest)
    access = open_storage(asked.storage)
    manifest = runner.label_unlabelled(manifest, access)
    info, runs = runner.prepare(manifest, access)
    done = runner.run_stages(info, runs, access, listener=listener, work_dir=work_dir, again=again)
    return FineTuned(runs[0].layout.root, done)


def load_student(
    student: str | Path,
    *,
    device: str | torch.device | None = None,
    storage: StorageSpec | Fields | None = None,
) -> Student:
    """Load a trained student, ready to predict.

    ``predict`` takes samples: ``engine.dataset.Sample.of(image)`` of an (H, W, 3) uint8 RGB array.

    Args:
        student: Folder of a run with a student, or of the student in it.
        device: Device of the model; default: the GPU if there is one.
        storage: Access to object storage; default: by the environment.

    Raises:
        BaseModelError: The student is unavailable, incomplete or damaged.
    """
    from engine.students import load_student as load

    return load(student, storage=open_storage(storage), device=device)

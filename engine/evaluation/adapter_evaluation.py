"""Evaluate an adapter and its base on a dataset: ``teacher evaluate`` and :func:`engine.evaluate`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from engine.dataset import CocoDataset, ImageFolder, Sample, load_dataset, load_sample
from engine.dataset.class_match import ClassMatch, match_classes
from engine.dataset.images.exif_orientation import frame_remarks
from engine.dataset.sample_loader import with_frame
from engine.dataset.splits.divide import images_with_objects
from engine.dataset.splits.trained_images import trained_images
from engine.errors import DataError
from engine.evaluation.conclusion import Conclusion, conclude
from engine.evaluation.evaluate import Evaluation, evaluate
from engine.evaluation.ground_truth import GroundTruths
from engine.evaluation.intervals import compare_ap
from engine.models.base import Teacher
from engine.models.load import load_adapted
from engine.models.lora import adapter_off
from engine.results.metrics import Comparison
from engine.spec import Crowds, ExifOrientation
from engine.storage import Storage


@dataclass(frozen=True, eq=False)
class AdapterEvaluation:
    """Evaluation of an adapter and of its base on the same images.

    Attributes:
        base: Evaluation without the adapter.
        adapted: Evaluation with it.
        comparison: Interval of the difference of AP; None if it cannot be estimated.
        conclusion: Whether the adapter is better, in a sentence.
        classes: Classes that the adapter or the dataset lacks.
        images: Number of images.
        trained_on: Images that the adapter was trained on; None if unknown.
        remarks: Sentences on the orientation of the images.
    """

    base: Evaluation
    adapted: Evaluation
    comparison: Comparison | None
    conclusion: Conclusion
    classes: ClassMatch
    images: int
    trained_on: list[str] | None
    remarks: tuple[str, ...]


def evaluate_adapter(
    adapter: str,
    data: str,
    images: str | None,
    *,
    base_model: str | None,
    batch_size: int,
    crowds: Crowds,
    exif_orientation: ExifOrientation,
    storage: Storage,
    cache: Path,
    working: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> AdapterEvaluation:
    """Evaluate an adapter and its base on a dataset.

    Args:
        adapter: Folder of the adapter.
        data: Annotations.
        images: Folder of the images; None: next to the annotations.
        base_model: Current location of the base, if it was moved after training.
        batch_size: Images per forward pass.
        crowds: Meaning of annotations with ``iscrowd: 1``.
        exif_orientation: Orientation of the images during annotation.
        storage: Access to adapter, data and images.
        cache: Where base models and images are kept.
        working: Returns a context that shows what is being done.

    Raises:
        DataError: The data has no objects with the annotations that the teacher needs, boxes or masks.
        TeacherError: Adapter, base, data or images cannot be used.
    """
    teacher = load_adapted(adapter, base_model=base_model, storage=storage, cache=cache)
    given = load_dataset(data, images, storage=storage, crowds=crowds)
    classes = match_classes(given, teacher.classes, side="the adapter")
    dataset = given.with_classes(teacher.classes)
    _check_annotations(teacher, given, dataset, data)
    folder = ImageFolder.of(data, images, storage=storage, cache=cache)
    folder.sync(dataset.images)
    paths = [folder.path(image) for image in dataset.images]
    dataset, frames = with_frame(dataset, paths, requested=exif_orientation, unknown=teacher.frame)

    def load(index: int) -> Sample:
        return load_sample(dataset, index, paths[index], with_masks=teacher.needs_masks)

    truths = GroundTruths()
    with working("measuring the adapter"):
        adapted = evaluate(teacher, dataset, load, batch_size=batch_size, truths=truths)
    with working("measuring the base"), adapter_off(teacher):
        base = evaluate(teacher, dataset, load, batch_size=batch_size, truths=truths)
    compared = compare_ap(adapted.truth, base.detections, adapted.detections)
    return AdapterEvaluation(
        base=base,
        adapted=adapted,
        comparison=compared,
        conclusion=conclude(base.metrics, adapted.metrics, compared),
        classes=classes,
        images=len(dataset),
        trained_on=trained_images(adapter, dataset, folder, storage),
        remarks=tuple(frame_remarks(frames, dataset.frame, teacher.frame)),
    )


def _check_annotations(teacher: Teacher, given: CocoDataset, dataset: CocoDataset, source: str) -> None:
    """Check that the data has objects of the adapter's classes with the annotations that the teacher needs."""
    traits, masks = teacher.name.traits, teacher.needs_masks
    if images_with_objects(dataset, masks=masks):
        return
    found = "has none of the adapter's classes" if images_with_objects(given, masks=masks) else "has none"
    raise DataError(f"{traits.title} needs {traits.annotations}, {source} {found}: annotate {traits.annotations}")

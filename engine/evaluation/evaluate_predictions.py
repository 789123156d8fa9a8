"""Evaluate labels of any origin: compare a file of predictions with the ground truth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine.dataset.file_names import FileNames
from engine.dataset.predictions import Predictions
from engine.dataset.types import CocoDataset, CocoImage, Detections
from engine.errors import DataError
from engine.evaluation.coco_ap import coco_ap
from engine.evaluation.confusion import confusion
from engine.evaluation.ground_truth import GroundTruth
from engine.evaluation.label_orientation import match_orientation
from engine.evaluation.matching import match_all
from engine.results.metrics import ApMetrics, Confusion
from engine.text.safe_text import listed


@dataclass(frozen=True)
class PredictionEvaluation:
    """AP and mistakes of predictions.

    Attributes:
        boxes: Metrics of the boxes.
        masks: Metrics of the masks; None unless both sides have masks.
        mistakes: Mistakes of all boxes of any score: AP is less informative for labels already filtered by a threshold.
        unlabelled: Images of the ground truth that the predictions lack; they count as images without detections.
        unknown: Images of the predictions that the ground truth lacks; they do not count.
        remarks: Sentences about the handling of images with an EXIF orientation.
        other_classes: Classes of the predictions that the ground truth lacks; they do not count.
        missed_classes: Classes of ground-truth objects that the predictions lack; their objects count as missed.
    """

    boxes: ApMetrics
    masks: ApMetrics | None
    mistakes: Confusion
    unlabelled: tuple[str, ...]
    unknown: tuple[str, ...]
    other_classes: tuple[str, ...]
    missed_classes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def evaluate_predictions(dataset: CocoDataset, predictions: Predictions) -> PredictionEvaluation:
    """Compare predictions with the ground truth; images are matched by file name, classes by name.

    Raises:
        DataError: They have no common image or class, or an image has a different size in the ground truth.
    """
    files = FileNames(predictions.seen)
    names = [files.find(image.file_name) for image in dataset.images]
    taken = [name for name in names if name is not None]
    if not taken:
        raise DataError(
            f"none of the {len(dataset)} images of the truth is among the {len(predictions.seen)} of the predictions: "
            f"{_example([i.file_name for i in dataset.images])} is compared with {_example(list(predictions.seen))}"
        )
    if len(set(taken)) < len(taken):
        twice = next(name for name in taken if taken.count(name) > 1)
        raise DataError(
            f"several images of the truth match {twice} of the predictions: use the same file names as in the truth"
        )
    shared = [name for name in predictions.classes if name in dataset.classes]
    if not shared:
        raise DataError(
            f"the predictions have the classes {listed(predictions.classes)}, the truth has "
            f"{listed(dataset.classes)}: no class has the same name"
        )
    predictions, remarks = match_orientation(dataset, names, predictions)
    images = tuple(_sized(image, name, predictions) for image, name in zip(dataset.images, names, strict=True))
    dataset = replace(dataset, images=images)
    new_index = np.asarray([dataset.classes.index(n) if n in shared else -1 for n in predictions.classes], np.int64)
    seen = [_reindexed(predictions.sure(name), new_index) if name is not None else _nothing() for name in names]
    with_objects = {found.class_index for objects in dataset.annotations for found in objects}
    masked = predictions.has_masks and any(a.segmentation for objects in dataset.annotations for a in objects)
    truth = GroundTruth.of(dataset, "bbox")
    return PredictionEvaluation(
        boxes=coco_ap(truth, seen),
        masks=coco_ap(GroundTruth.of(dataset, "segm"), seen) if masked else None,
        mistakes=confusion(
            match_all(truth, seen),
            dataset.classes,
            dict.fromkeys(dataset.classes, 0.0),
            with_matrix=True,
        ),
        unlabelled=tuple(i.file_name for i, name in zip(dataset.images, names, strict=True) if name is None),
        unknown=tuple(sorted(predictions.seen.keys() - set(taken))),
        remarks=remarks,
        other_classes=tuple(name for name in predictions.classes if name not in shared),
        missed_classes=tuple(
            name for i, name in enumerate(dataset.classes) if i in with_objects and name not in shared
        ),
    )


def _sized(image: CocoImage, name: str | None, predictions: Predictions) -> CocoImage:
    """Return the image with its size, taken from the predictions if the ground truth lacks it."""
    if name is None:
        return image
    said, found = (image.width, image.height), predictions.sizes[name]
    if 0 in said:
        return replace(image, width=found[0], height=found[1])
    if 0 not in found and said != found:
        raise DataError(
            f"{image.file_name} is {said[0]}x{said[1]} pixels in the truth, but {found[0]}x{found[1]} in the "
            f"predictions: label the images that the truth was made for{_by_exif(said, found)}"
        )
    return image


def _by_exif(said: tuple[int, int], found: tuple[int, int]) -> str:
    if said != found[::-1]:
        return ""
    return (
        ". Width and height are exchanged: it seems that only one of the two has the EXIF orientation of the image "
        "applied. Label it with this version, which records the orientation, or rotate one of them"
    )


def _reindexed(seen: Detections, new_index: NDArray[np.int64]) -> Detections:
    """Map detections to the classes of the ground truth; drop those of other classes."""
    classes = new_index[seen.class_indices]
    return replace(seen, class_indices=classes).select(np.flatnonzero(classes >= 0))


def _nothing() -> Detections:
    return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), masks=[])


def _example(names: list[str]) -> str:
    return names[0] if names else "nothing"

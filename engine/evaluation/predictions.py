"""What labels are worth, whoever made them: a file of predictions against the truth, image by image."""

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
from engine.evaluation.label_orientation import in_frame_of
from engine.evaluation.matching import match_all
from engine.result_types import ApMetrics, Confusion
from engine.safe_text import listed


@dataclass(frozen=True)
class Measured:
    """AP of predictions, and what is wrong with them as they are.

    Attributes:
        boxes: Of their boxes.
        masks: Of their masks; None unless both sides have some.
        mistakes: Of all boxes, whatever their scores: AP says little of labels that a threshold has passed.
        unlabelled: Images of the truth that the predictions do not hold; they count as ones where nothing was seen.
        unknown: Images of the predictions that the truth does not hold; they do not count.
        remarks: How images were taken that EXIF turns, in sentences.
        other_classes: Classes of the predictions that the truth does not have; they do not count.
        missed_classes: Classes of the truth's objects that the predictions do not have; they count as not found.
    """

    boxes: ApMetrics
    masks: ApMetrics | None
    mistakes: Confusion
    unlabelled: tuple[str, ...]
    unknown: tuple[str, ...]
    other_classes: tuple[str, ...]
    missed_classes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def measure_predictions(dataset: CocoDataset, predictions: Predictions) -> Measured:
    """Compare predictions with the truth; images are matched by file name, classes by name.

    Raises:
        DataError: They have no image or no class in common, or an image has another size than in the truth.
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
        raise DataError(f"several images of the truth are {twice} of the predictions: name images as in the truth")
    shared = [name for name in predictions.classes if name in dataset.classes]
    if not shared:
        raise DataError(
            f"the predictions are of {listed(predictions.classes)}, the truth of "
            f"{listed(dataset.classes)}: no class has the same name"
        )
    predictions, remarks = in_frame_of(dataset, names, predictions)
    images = tuple(_sized(image, name, predictions) for image, name in zip(dataset.images, names, strict=True))
    dataset = replace(dataset, images=images)
    new_index = np.asarray([dataset.classes.index(n) if n in shared else -1 for n in predictions.classes], np.int64)
    seen = [_reindexed(predictions.seen[name], new_index) if name is not None else _nothing() for name in names]
    with_objects = {found.class_index for objects in dataset.annotations for found in objects}
    masked = predictions.has_masks and any(a.segmentation for objects in dataset.annotations for a in objects)
    return Measured(
        boxes=coco_ap(dataset, seen, iou_type="bbox"),
        masks=coco_ap(dataset, seen, iou_type="segm") if masked else None,
        mistakes=confusion(
            match_all(dataset, seen, iou_type="bbox"),
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
    """The image with a size, if only the predictions know it."""
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
        ". Width and height are exchanged: it seems that one side has the EXIF orientation of the image applied, and "
        "the other not. Label it with this version, which writes the orientation down, or turn one of them"
    )


def _reindexed(seen: Detections, new_index: NDArray[np.int64]) -> Detections:
    """Detections with the truth's classes; those of others are left out."""
    classes = new_index[seen.class_indices]
    return replace(seen, class_indices=classes).select(np.flatnonzero(classes >= 0))


def _nothing() -> Detections:
    return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), masks=[])


def _example(names: list[str]) -> str:
    return names[0] if names else "nothing"

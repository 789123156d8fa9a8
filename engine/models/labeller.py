"""Adapted teachers as one pipeline: Grounding DINO detects boxes, SAM segments each.

No files are read or written here: see :mod:`engine.labelling`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from engine.dataset.boxes import box_iou
from engine.dataset.types import NMS_IOU, Detections, Frame, Sample
from engine.errors import OutOfGpuMemoryError
from engine.models.base import Teacher

DEFAULT_THRESHOLD = 0.3
"""Score threshold of classes without a measured threshold."""

SAME_BOX = 0.95
"""IoU above which two boxes are the same object, of any classes: NMS keeps the higher score."""

SMALLEST = 1.0
"""Minimum shorter side of a box, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Labeller:
    """Pipeline from images to labels.

    Attributes:
        detector: An adapted Grounding DINO, for boxes.
        segmenter: An adapted SAM, for a mask of each box; None for labels without masks.
        thresholds: Score thresholds by class name; for other classes :data:`DEFAULT_THRESHOLD`.
        nms_iou: See :data:`NMS_IOU`; 1 suppresses only boxes of the same object.
        unsure_share: Share of the threshold of a class from which boxes below the threshold are kept too, as unsure:
            neither object nor background in training; 1: none.
        category_ids: COCO id of each class, in the order of :attr:`classes`; empty: counted from 1.
        identity: Names and digests of the weights, on which the labels depend too.
        remarks: Sentences on poor metrics of the run, which speak against its labels.
        frame: Frame of EXIF-rotated images, as in training.
    """

    detector: Teacher
    segmenter: Teacher | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    nms_iou: float = NMS_IOU
    unsure_share: float = 1.0
    category_ids: tuple[int, ...] = ()
    identity: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    frame: Frame = Frame.UPRIGHT

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of class indices."""
        return self.detector.classes

    @property
    def ids(self) -> tuple[int, ...]:
        """COCO id of each class."""
        return self.category_ids or tuple(range(1, len(self.classes) + 1))

    @property
    def lowest_scores(self) -> NDArray[np.float32]:
        """Score threshold of each class, (classes,)."""
        return np.asarray([self.thresholds.get(name, DEFAULT_THRESHOLD) for name in self.classes], np.float32)

    def label(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """Label a batch of images.

        Args:
            images: (H, W, 3) uint8, RGB, in :attr:`frame`, of any sizes.

        Returns:
            Boxes of each image in pixels, with the detector's scores, by descending score; with a segmenter also
            ``masks``. Boxes with an empty mask are left out.

        Raises:
            OutOfGpuMemoryError: The GPU has too little memory for this number of images.
        """
        try:
            return self._label(images)
        except torch.OutOfMemoryError as error:
            raise OutOfGpuMemoryError(
                f"the GPU has too little memory for {len(images)} images at a time: lower the batch size"
            ) from error

    def _label(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        seen = self.detector.predict([Sample.of(image) for image in images])
        limits = self.lowest_scores
        found = [keep(one, limits * np.float32(self.unsure_share), nms_iou=self.nms_iou) for one in seen]
        if self.unsure_share < 1:
            found = [replace(one, unsure=one.scores < limits[one.class_indices]) for one in found]
        if self.segmenter is None:
            return found
        prompts = [
            Sample.of(image, one.boxes_xyxy, one.class_indices) for image, one in zip(images, found, strict=True)
        ]
        answers = self.segmenter.predict(prompts)
        return [_with_masks(one, answer) for one, answer in zip(found, answers, strict=True)]


def keep(
    seen: Detections, lowest_scores: NDArray[np.float32], *, nms_iou: float, same_box: float = SAME_BOX
) -> Detections:
    """Select the detections that become labels: above the threshold of their class, after NMS, and not too small.

    Args:
        seen: Detections in one image, by descending score.
        lowest_scores: (classes,) score threshold of each class.
        nms_iou: Of two boxes of one class with a higher IoU, NMS keeps the higher score.
        same_box: The same for two boxes of any classes; compares the ratio of score to threshold, since scores of
            different classes are not comparable.
    """
    sides = (seen.boxes_xyxy[:, 2:] - seen.boxes_xyxy[:, :2]).min(axis=1, initial=np.inf)
    sure = np.flatnonzero((seen.scores >= lowest_scores[seen.class_indices]) & (sides >= SMALLEST))
    margins = seen.scores[sure] / np.maximum(lowest_scores[seen.class_indices[sure]], 1e-6)
    sure = sure[np.argsort(-margins, kind="stable")]
    first = non_maximum_suppression(seen.boxes_xyxy[sure], seen.class_indices[sure], iou=nms_iou, same_box=same_box)
    kept = np.sort(sure[first])
    return replace(seen.select(kept), cut=seen.lacks(float(lowest_scores.min(initial=np.inf))))


def non_maximum_suppression(
    boxes_xyxy: NDArray[np.float32], class_indices: NDArray[np.int64], *, iou: float, same_box: float = SAME_BOX
) -> NDArray[np.int64]:
    """Return the indices of the boxes that NMS keeps.

    A box is suppressed by an earlier kept box of its class with IoU above ``iou``, or of any class above ``same_box``.

    Args:
        boxes_xyxy: (N, 4) corners, by descending score.
        class_indices: (N,).
        iou: IoU above which two boxes of one class are one object.
        same_box: IoU above which two boxes of any classes are one object.
    """
    limits = np.where(class_indices[:, None] == class_indices, min(iou, SAME_BOX), same_box)
    covers = box_iou(boxes_xyxy, boxes_xyxy) > limits
    open_ = np.ones(len(boxes_xyxy), np.bool_)
    for i in range(len(boxes_xyxy)):
        if open_[i]:
            open_[i + 1 :] &= ~covers[i, i + 1 :]
    return np.flatnonzero(open_)


def _with_masks(found: Detections, answer: Detections) -> Detections:
    """Combine boxes with the masks that they prompted, in the order of the boxes."""
    prompts = np.empty(0, np.int64) if answer.prompt_indices is None else answer.prompt_indices
    order = np.argsort(prompts)
    kept, masks = prompts[order], answer.masks or []
    return Detections(
        found.boxes_xyxy[kept],
        found.scores[kept],
        found.class_indices[kept],
        masks=[masks[i] for i in order],
        cut=found.cut,
        unsure=None if found.unsure is None else found.unsure[kept],
    )

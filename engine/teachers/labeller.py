"""Adapted teachers as one pipeline: Grounding DINO finds boxes, SAM answers each with a mask.

Everything here is a function of the images: files are read and written by :mod:`engine.labelling`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from engine.dataset.boxes import box_iou
from engine.dataset.types import NMS_IOU, Detections, Frame, Sample
from engine.errors import OutOfMemoryError
from engine.teachers.base import Teacher

DEFAULT_THRESHOLD = 0.3
"""Lowest score that is kept of a class that no threshold was measured for."""

SAME_BOX = 0.95
"""IoU of boxes that are the same one: whatever their classes, the surer is kept, since one object has one class."""

SMALLEST = 1.0
"""Pixels along the shorter side of the smallest box that is kept."""


@dataclass(frozen=True, kw_only=True)
class Labeller:
    """What turns images into labels.

    Attributes:
        detector: Finds boxes: an adapted Grounding DINO.
        segmenter: Gives each box a mask: an adapted SAM; None for labels without masks.
        thresholds: By class name, the lowest score that is kept; of others :data:`DEFAULT_THRESHOLD`.
        nms_iou: See :data:`NMS_IOU`; 1 keeps all but the same boxes.
        category_ids: COCO's id of each class, in the order of :attr:`classes`; empty: counted from 1.
        identity: What the labels depend on besides: names and digests of weights.
        frame: How images are taken that EXIF turns: as in training.
        remarks: What the run's own measures say against its labels, in sentences.
        frame: How images are to be decoded that EXIF turns: as in training.
    """

    detector: Teacher
    segmenter: Teacher | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    nms_iou: float = NMS_IOU
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
        """COCO's id of each class."""
        return self.category_ids or tuple(range(1, len(self.classes) + 1))

    @property
    def lowest_scores(self) -> NDArray[np.float32]:
        """(classes,) the threshold of each class."""
        return np.asarray([self.thresholds.get(name, DEFAULT_THRESHOLD) for name in self.classes], np.float32)

    def label(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """What is to be seen in a batch of images.

        Args:
            images: (H, W, 3) uint8, RGB, in :attr:`frame`, of any sizes.

        Returns:
            Of each image boxes in its pixels, with the detector's scores, the surest first; with a segmenter also
            ``masks``. A box that the segmenter sees nothing in is left out.

        Raises:
            OutOfMemoryError: The GPU has too little memory for so many images.
        """
        try:
            return self._label(images)
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"the GPU has too little memory for {len(images)} images at once: lower the batch size"
            ) from error

    def _label(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        seen = self.detector.predict([Sample.of(image) for image in images])
        found = [keep(one, self.lowest_scores, nms_iou=self.nms_iou) for one in seen]
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
    """The detections that are labels: sure enough for their class, each object once, none of no size.

    Args:
        seen: Of one image, the surest first.
        lowest_scores: (classes,) the threshold of each class.
        nms_iou: Of two boxes of one class with a higher IoU, the surer is kept.
        same_box: The same of two boxes of any classes; the surer is the one further above its threshold, in proportion:
            scores of different classes do not compare.
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
    """Positions of the boxes that no kept, earlier box of their class overlaps, or that is the same box of any class.

    Args:
        boxes_xyxy: (N, 4) corners, the surest first.
        class_indices: (N,).
        iou: Overlap from which on, exclusive, two boxes of a class are of one object.
        same_box: Overlap from which on, exclusive, two boxes are the same whatever their classes.
    """
    limits = np.where(class_indices[:, None] == class_indices, min(iou, SAME_BOX), same_box)
    covers = box_iou(boxes_xyxy, boxes_xyxy) > limits
    open_ = np.ones(len(boxes_xyxy), np.bool_)
    for i in range(len(boxes_xyxy)):
        if open_[i]:
            open_[i + 1 :] &= ~covers[i, i + 1 :]
    return np.flatnonzero(open_)


def _with_masks(found: Detections, answer: Detections) -> Detections:
    """Boxes with the masks that they prompted, in the order of the boxes."""
    prompts = np.empty(0, np.int64) if answer.prompt_indices is None else answer.prompt_indices
    order = np.argsort(prompts)
    kept, masks = prompts[order], answer.masks or []
    return Detections(
        found.boxes_xyxy[kept],
        found.scores[kept],
        found.class_indices[kept],
        masks=[masks[i] for i in order],
        cut=found.cut,
    )

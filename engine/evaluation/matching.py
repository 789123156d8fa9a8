"""Which detection is of which object, as COCO's evaluation decides it at an IoU of 0.5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from engine.dataset.boxes import box_iou
from engine.dataset.types import CocoDataset, Detections
from engine.evaluation.ground_truth import IouType, truth_of

FOUND = 0.5
"""IoU from which on a detection is of an object."""


@dataclass(frozen=True, eq=False)
class Match:
    """The N detections of one image beside its M objects.

    A detection's match does not depend on those of its class that are less sure: the match of the detections above any
    threshold is a part of this one.

    Attributes:
        scores: (N,) float64.
        seen: (N,) int64, the class of each detection.
        objects: (M,) int64, the class of each object; crowds are none.
        ious: (N, M) float64.
        object_of: (N,) int64, the object that each detection has found, or -1.
        passed_over: (N,) bool, neither right nor wrong: the detection lies in a crowd of its class.
    """

    scores: NDArray[np.float64]
    seen: NDArray[np.int64]
    objects: NDArray[np.int64]
    ious: NDArray[np.float64]
    object_of: NDArray[np.int64]
    passed_over: NDArray[np.bool_]


def match_all(dataset: CocoDataset, detections: Sequence[Detections], *, iou_type: IouType) -> list[Match]:
    """The match of every image.

    Args:
        dataset: The truth; for ``segm``, objects without a mask are left out.
        detections: Of each image of ``dataset``, in its order.
        iou_type: Whether boxes or masks are compared.
    """
    return [
        match(
            truth_of(dataset, index, iou_type=iou_type),
            seen,
            crowds=truth_of(dataset, index, iou_type=iou_type, crowds=True),
        )
        for index, seen in enumerate(detections)
    ]


def match(truth: Detections, detections: Detections, *, crowds: Detections) -> Match:
    """Give each object to the surest detection of its class that covers it best, each to one.

    Args:
        truth: The objects of an image.
        detections: What was seen in it.
        crowds: Regions where nobody has told the objects apart.
    """
    ious = pairwise_iou(detections, truth)
    of_class = np.where(detections.class_indices[:, None] == truth.class_indices[None, :], ious, 0.0)
    object_of = np.full(len(detections), -1, np.int64)
    free = np.ones(len(truth), np.bool_)
    able = np.flatnonzero((of_class >= FOUND).any(axis=1))
    for i in able[np.argsort(-detections.scores[able], kind="stable")]:
        best = int(np.argmax(of_class[i] * free))
        if free[best] and of_class[i, best] >= FOUND:
            free[best] = False
            object_of[i] = best
    inside = pairwise_iou(detections, crowds, crowds=True) >= FOUND
    inside &= detections.class_indices[:, None] == crowds.class_indices[None, :]
    return Match(
        scores=detections.scores.astype(np.float64),
        seen=detections.class_indices,
        objects=truth.class_indices,
        ious=ious,
        object_of=object_of,
        passed_over=inside.any(axis=1) & (object_of < 0),
    )


def pairwise_iou(rows: Detections, columns: Detections, *, crowds: bool = False) -> NDArray[np.float64]:
    """(N, M) IoU of masks where both have them, else of boxes; with ``crowds``, the share of each row's own area."""
    if len(rows) and len(columns) and rows.masks is not None and columns.masks is not None:
        return np.asarray(coco_mask.iou(rows.masks, columns.masks, [int(crowds)] * len(columns)))
    return box_iou(rows.boxes_xyxy, columns.boxes_xyxy, crowds=crowds)

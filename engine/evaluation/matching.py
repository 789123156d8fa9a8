"""Match detections with objects as COCO's evaluation does at an IoU of 0.5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from engine.dataset.boxes import box_iou
from engine.dataset.types import Detections
from engine.evaluation.ground_truth import GroundTruth

MATCH_IOU = 0.5
"""Minimum IoU of a detection that matches an object."""


@dataclass(frozen=True, eq=False)
class Match:
    """Match of the N detections of one image with its M objects.

    A detection's match does not depend on detections of its class with lower scores: the match of the detections above
    any threshold is a subset of this one.

    Attributes:
        scores: (N,) float64.
        seen: (N,) int64, class of each detection.
        objects: (M,) int64, class of each object, without crowds.
        ious: (N, M) float64.
        object_of: (N,) int64, index of the object that each detection matches, or -1.
        ignored: (N,) bool, True where the detection is in a crowd of its class and therefore ignored.
    """

    scores: NDArray[np.float64]
    seen: NDArray[np.int64]
    objects: NDArray[np.int64]
    ious: NDArray[np.float64]
    object_of: NDArray[np.int64]
    ignored: NDArray[np.bool_]


def match_all(truth: GroundTruth, detections: Sequence[Detections]) -> list[Match]:
    """Match the detections of every image.

    Args:
        truth: Ground truth, and how detections are compared with it.
        detections: Detections in each image of ``truth.dataset``, in its order.
    """
    return [
        match(objects, seen, crowds=crowds)
        for objects, seen, crowds in zip(truth.objects, detections, truth.crowds, strict=True)
    ]


def match(truth: Detections, detections: Detections, *, crowds: Detections) -> Match:
    """Match one-to-one, greedily by descending score: each detection takes the free object of its class with most IoU.

    Args:
        truth: Objects of an image.
        detections: Detections in it.
        crowds: Crowd regions, in which objects are not annotated individually.
    """
    ious = pairwise_iou(detections, truth)
    of_class = np.where(detections.class_indices[:, None] == truth.class_indices[None, :], ious, 0.0)
    object_of = np.full(len(detections), -1, np.int64)
    free = np.ones(len(truth), np.bool_)
    able = np.flatnonzero((of_class >= MATCH_IOU).any(axis=1))
    for i in able[np.argsort(-detections.scores[able], kind="stable")]:
        best = int(np.argmax(of_class[i] * free))
        if free[best] and of_class[i, best] >= MATCH_IOU:
            free[best] = False
            object_of[i] = best
    inside = pairwise_iou(detections, crowds, crowds=True) >= MATCH_IOU
    inside &= detections.class_indices[:, None] == crowds.class_indices[None, :]
    return Match(
        scores=detections.scores.astype(np.float64),
        seen=detections.class_indices,
        objects=truth.class_indices,
        ious=ious,
        object_of=object_of,
        ignored=inside.any(axis=1) & (object_of < 0),
    )


def pairwise_iou(rows: Detections, columns: Detections, *, crowds: bool = False) -> NDArray[np.float64]:
    """Compute (N, M) IoU of masks if both have masks, else of boxes; ``crowds`` divides by each row's own area."""
    if len(rows) and len(columns) and rows.masks is not None and columns.masks is not None:
        return np.asarray(coco_mask.iou(rows.masks, columns.masks, [int(crowds)] * len(columns)))
    return box_iou(rows.boxes_xyxy, columns.boxes_xyxy, crowds=crowds)

"""Arithmetic on the boxes and areas of a block of annotations: rotation, clipping, repair and tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from engine.dataset.checks.rotated_boxes import angles, upright
from engine.dataset.coco_records import RawAnnotation
from engine.dataset.segmentations import MaskKind, box_around

HUGE = 1e7
"""Coordinates in pixels are always below this."""

PIXELS = 16.0
"""Tolerance of areas in square pixels."""


@dataclass(frozen=True, eq=False)
class BlockBoxes:
    """The boxes of N annotations: as in the file, and repaired.

    Attributes:
        given_xywh: (N, 4) x, y, width, height as in the file, NaN without a box.
        xywh: The same, with rotated boxes upright and unusable ones replaced by the bounds of their masks.
        missing: (N,) bool, the annotation has no box in the file.
        rotated: (N,) bool, the box in the file is a rotated rectangle.
        unclear: (N,) bool, its rotation has no clear meaning.
        derived: (N,) bool, the box comes from the mask alone.
        outlined: (N,) bool, the annotation has a readable mask.
        finite: (N,) bool, the four numbers are of a plausible size.
        positive: (N,) bool, width and height are above 0.
    """

    given_xywh: NDArray[np.float64]
    xywh: NDArray[np.float64]
    missing: NDArray[np.bool_]
    rotated: NDArray[np.bool_]
    unclear: NDArray[np.bool_]
    derived: NDArray[np.bool_]
    outlined: NDArray[np.bool_]
    finite: NDArray[np.bool_]
    positive: NDArray[np.bool_]


def read_boxes(annotations: list[RawAnnotation], masks: NDArray[np.int8], sizes: NDArray[np.float64]) -> BlockBoxes:
    """Read and repair the boxes of a block of annotations.

    Args:
        annotations: As read.
        masks: (N,) kinds of their masks. Rectangles that only repeat a rotated box are removed, in place.
        sizes: (N, 2) width and height of their images in pixels, 0 if unknown.
    """
    boxes, missing = _boxes_xywh([a.bbox for a in annotations])
    given = boxes.copy(order="F")
    rotated, unclear = _replace_rotated(annotations, boxes, masks)
    finite: NDArray[np.bool_] = np.asarray((np.abs(boxes) < HUGE).all(axis=1))  # NaN is not
    positive = finite & (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
    outlined = (masks != MaskKind.NONE) & (masks != MaskKind.BAD)
    derived = np.zeros(len(annotations), np.bool_)
    for i in np.flatnonzero((~positive | rotated) & outlined):
        box = box_around(annotations[i].segmentation, int(masks[i]), sizes[i])
        if box is not None:
            boxes[i], derived[i], positive[i], finite[i], unclear[i] = box, not rotated[i], True, True, False
    return BlockBoxes(
        given_xywh=given,
        xywh=boxes,
        missing=missing,
        rotated=rotated,
        unclear=unclear,
        derived=derived,
        outlined=outlined,
        finite=finite,
        positive=positive,
    )


def _replace_rotated(
    annotations: list[RawAnnotation], boxes: NDArray[np.float64], masks: NDArray[np.int8]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Replace boxes by the upright boxes around their rotated rectangles, in place.

    Returns:
        (N,) bool, rotated boxes; (N,) bool, boxes whose meaning is unclear. A mask that only repeats the box does not
        count as a mask.
    """
    degrees, unclear = angles(annotations)
    rotated = degrees != 0
    if rotated.any():
        boxes[rotated & ~unclear] = upright(boxes[rotated & ~unclear], degrees[rotated & ~unclear])
        masks[rotated & (masks == MaskKind.RECTANGLE)] = MaskKind.NONE
    return rotated, unclear


def clip_to_image(
    boxes: NDArray[np.float64], sizes: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return (N, 4) corners clipped to the image; (N,) True if a box exceeds it by over a pixel or lies outside."""
    known = (sizes[:, 0] > 0) & (sizes[:, 1] > 0)
    limits = np.where(known, sizes.T, np.inf)
    low, high = boxes.T[:2], boxes.T[:2] + boxes.T[2:]
    inside = np.concatenate([np.clip(low, 0, limits), np.clip(high, 0, limits)])
    clipped = (np.abs(inside[:2] - low) > 1).any(axis=0) | (np.abs(inside[2:] - high) > 1).any(axis=0)
    outside = ~((inside[2] > inside[0]) & (inside[3] > inside[1]))
    return inside.T, np.asarray(clipped), np.asarray(outside)


def correct_areas(
    given: NDArray[np.float64], drawn: NDArray[np.float64], boxes: NDArray[np.float64], inside: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the areas of N objects, and which areas in the file are wrong.

    Tools write the area of the mask or of the box, and either may be clipped to the image. An area far from both is
    wrong.

    Args:
        given: (N,) as in the file.
        drawn: (N,) areas of the masks, NaN if unknown.
        boxes: (N, 4) x, y, width, height.
        inside: (N, 4) corners, clipped to the image.
    """
    of_box, seen = boxes[:, 2] * boxes[:, 3], (inside[:, 2] - inside[:, 0]) * (inside[:, 3] - inside[:, 1])
    largest = np.fmax(of_box, drawn)
    least = np.where(np.isnan(drawn), 0, np.fmin(drawn, seen))
    wrong = (given > 2 * largest + PIXELS) | (given < 0.5 * least - PIXELS)
    wrong |= (given <= 1) & ((np.isnan(drawn) & (seen > PIXELS)) | (least > PIXELS))
    missing = ~(np.isfinite(given) & (given > 0))
    own = np.where(drawn > 0, drawn, seen)
    return np.where(missing | wrong, own, given), wrong & np.isfinite(given)


def are_shares(boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return (N,) True if all four numbers lie in 0..1: a real box is larger than the first pixel of its image."""
    x, y, w, h = boxes.T
    return np.asarray((x >= 0) & (x <= 1) & (y >= 0) & (y <= 1) & (w > 0) & (w <= 1) & (h > 0) & (h <= 1))


def are_corners(
    boxes: NDArray[np.float64], inside: NDArray[np.float64], sizes: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return (N,) True if most of a box lies outside its image, but all of it inside when read as two corners."""
    (x, y, w, h), (left, top, right, bottom), (width, height) = boxes.T, inside.T, sizes.T
    fits = (x >= 0) & (y >= 0) & (w > x) & (h > y) & (w <= width + 1) & (h <= height + 1)
    return np.asarray(fits & ((right - left) * (bottom - top) < 0.5 * w * h))


def _boxes_xywh(boxes: Sequence[Sequence[float] | None]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return (N, 4) float64, NaN without a box of four numbers; (N,) bool, True if the annotation has no box at all.

    The boxes are stored column by column: reductions over the four numbers are several times as fast.
    """
    given = [box or () for box in boxes]
    lengths = np.fromiter(map(len, given), np.int64, len(given))
    if (lengths != 4).any():
        given = [box if len(box) == 4 else [np.nan] * 4 for box in given]
    numbers = np.fromiter(chain.from_iterable(given), np.float64, 4 * len(given)).reshape(-1, 4)
    return np.asfortranarray(numbers), lengths == 0

"""Compare the box of an object with the bounds of its mask, and find the likely cause of a mismatch.

A box may be larger than its mask (an occluded object, a box drawn by hand), and a mask may stick out of its box a
little.
Likely errors are a mask that lies mostly outside its box or covers almost nothing of it, and numbers that match the
mask
exactly when they are interpreted in another way (as corners, as fractions of the image ...).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import IntEnum

import msgspec
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from engine.dataset.checks.mask_geometry import run_lengths
from engine.dataset.masks import encode_segmentation
from engine.dataset.segmentations import MaskKind, parse
from engine.dataset.types import Rle

Array = NDArray[np.float64]


class Reading(IntEnum):
    """Likely interpretation of the numbers of an object."""

    AGREES = 0
    CORNERS = 1
    CENTER = 2
    SHARES = 3
    SWAPPED = 4
    MASK_SHARES = 5
    MASK_SCALED = 6
    ROWS = 7
    INVERTED = 8
    NO_PIXEL = 9
    UNEXPLAINED = 10


SLACK, SLACK_SHARE = 2.0, 0.1
"""Tolerated difference between box and mask: in pixels, and as a fraction of a side."""

EXACT, EXACT_SHARE = 1.5, 0.02
"""The same for another interpretation of the numbers, which must not match by chance."""

LEAST_INSIDE = 0.5
"""Minimum fraction of the mask inside the box."""

LEAST_COVER, LARGE_BOX = 0.02, 400.0
"""Minimum fraction of a box that the bounds of its mask cover, for boxes larger than this area (square pixels)."""

LEAST_COVER_OF_IMAGE = 0.25
"""The same for a box that covers the whole image: some tools write it when they have no box."""

UNITS = (1.0, 100.0, 1000.0)
"""Width of the image in relative units: fractions, percents, thousandths."""

Layout = Callable[[Array], Array]


def _corners(box: Array) -> Array:
    return box


def _from_sides(box: Array) -> Array:
    return np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], axis=1)


def _from_center(box: Array) -> Array:
    return np.concatenate([box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2], axis=1)


LAYOUTS: tuple[tuple[Reading, tuple[int, ...], Layout], ...] = (
    (Reading.AGREES, (0, 1, 2, 3), _from_sides),
    (Reading.CORNERS, (0, 1, 2, 3), _corners),
    (Reading.CENTER, (0, 1, 2, 3), _from_center),
    (Reading.SWAPPED, (1, 0, 3, 2), _corners),
    (Reading.SWAPPED, (1, 0, 3, 2), _from_sides),
    (Reading.SWAPPED, (0, 1, 3, 2), _from_sides),
)
"""Possible layouts of four numbers: the reading, the order of the numbers, and the conversion to corners."""


def compare(
    boxes_xywh: Array,
    bounds_xyxy: Array,
    areas: Array,
    sizes: Array,
    *,
    segmentations: list[msgspec.Raw],
    kinds: NDArray[np.int8],
    compared: NDArray[np.bool_],
) -> NDArray[np.int8]:
    """Compare N boxes with the bounds of the masks of their objects.

    Args:
        boxes_xywh: (N, 4) as in the file.
        bounds_xyxy: (N, 4) corners around each mask; NaN if unknown, which counts as agreement.
        areas: (N,) areas of the masks.
        sizes: (N, 2) width and height of each object's image in pixels, 0 if unknown.
        segmentations: Raw JSON from the file, for the few masks whose pixels must be counted.
        kinds: (N,) :class:`MaskKind`.
        compared: (N,) the objects to compare: without those whose box was derived from the mask.

    Returns:
        (N,) int8, :class:`Reading`.
    """
    readings = np.full(len(boxes_xywh), Reading.AGREES, np.int8)
    known = np.flatnonzero(compared & ~np.isnan(bounds_xyxy[:, 0]))
    limits = np.tile(np.where(sizes[known] > 0, sizes[known], np.inf), (1, 2))
    boxes = np.clip(_from_sides(boxes_xywh[known]), 0, limits)
    masks = np.clip(bounds_xyxy[known], 0, limits)
    suspects = np.flatnonzero(~_near(boxes, masks, SLACK, SLACK_SHARE))
    if len(suspects):
        where = known[suspects]
        bad = _apart(boxes[suspects], masks[suspects])
        readings[where] = _explained(boxes_xywh[where], bounds_xyxy[where], sizes[where], bad=bad)
        for i, suspect in zip(where, suspects, strict=True):
            unexplained = bool(readings[i] == Reading.UNEXPLAINED)
            if unexplained or (kinds[i] == MaskKind.RUN_LENGTHS and readings[i] == Reading.AGREES):
                readings[i] = _by_pixels(segmentations[i], int(kinds[i]), boxes[suspect], sizes[i], unexplained)
        readings[where[_whole_images(boxes[suspects], masks[suspects], limits[suspects])]] = Reading.UNEXPLAINED
    if (empty := areas == 0).any():
        readings[empty & np.isin(readings, (Reading.AGREES, Reading.UNEXPLAINED))] = Reading.NO_PIXEL
    return readings


def _near(a: Array, b: Array, pixels: float, share: float) -> NDArray[np.bool_]:
    """Return (N,) True if all sides of two boxes (N, 4) differ by at most ``pixels`` or ``share`` of the larger
    side.
    """
    sides = np.maximum(a[:, 2:] - a[:, :2], b[:, 2:] - b[:, :2])
    return np.asarray((np.abs(a - b) <= np.maximum(pixels, share * np.tile(sides, (1, 2)))).all(axis=1))


def _apart(boxes: Array, masks: Array) -> NDArray[np.bool_]:
    """Return (N,) True if the bounds of a mask lie mostly outside their box, or cover almost nothing of it."""
    low, high = np.maximum(boxes[:, :2] - SLACK, masks[:, :2]), np.minimum(boxes[:, 2:] + SLACK, masks[:, 2:])
    sides = np.maximum(masks[:, 2:] - masks[:, :2], 1e-6)
    inside = (np.clip(high - low, 0, None) / sides).prod(axis=1)
    box_areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    covers = sides.prod(axis=1) / np.maximum(box_areas, 1e-6)
    return np.asarray((inside < LEAST_INSIDE) | ((covers < LEAST_COVER) & (box_areas > LARGE_BOX)))


def _whole_images(boxes: Array, masks: Array, limits: Array) -> NDArray[np.bool_]:
    """Return (N,) True if a box covers the whole image but its mask only a small part; ``limits``: image corners."""
    whole = (boxes[:, :2] <= 1).all(axis=1) & (boxes[:, 2:] >= limits[:, 2:] - 1).all(axis=1)
    return np.asarray(
        whole
        & ((masks[:, 2:] - masks[:, :2]).prod(axis=1) < LEAST_COVER_OF_IMAGE * limits[:, 2:].prod(axis=1))
        & (limits[:, 2:].prod(axis=1) > LARGE_BOX)
    )


def _explained(boxes: Array, masks: Array, sizes: Array, *, bad: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Return (N,) the first other reading in which box and mask match; else UNEXPLAINED if ``bad``, or AGREES."""
    found = np.where(bad, Reading.UNEXPLAINED, Reading.AGREES).astype(np.int8)
    for reading, read, against in _others(boxes, masks, sizes):
        fits = _near(read, against, EXACT, EXACT_SHARE) & np.isin(found, (Reading.UNEXPLAINED, Reading.AGREES))
        found[fits] = reading
    scaled = bad & (found == Reading.UNEXPLAINED) & _is_scaled(_from_sides(boxes), masks)
    found[scaled] = Reading.MASK_SCALED
    return found


def _others(boxes: Array, masks: Array, sizes: Array) -> Iterator[tuple[Reading, Array, Array]]:
    """Yield readings of boxes or masks, each with two (N, 4) corner arrays that are equal if it is the right one."""
    for reading, order, layout in LAYOUTS[1:]:
        yield reading, layout(boxes[:, order]), masks
    unclear = np.where(sizes > 0, sizes, np.nan)
    for unit in UNITS:
        scale = np.tile(unclear / unit, (1, 2))
        for _, order, layout in LAYOUTS:
            yield Reading.SHARES, layout(boxes[:, order] * scale), masks
        yield Reading.MASK_SHARES, masks * scale, _from_sides(boxes)
    sides = boxes.copy()
    sides[:, 2:] *= unclear
    yield Reading.SHARES, _from_sides(sides), masks
    places = boxes.copy()
    places[:, :2] *= unclear
    yield Reading.SHARES, _from_sides(places), masks


def _is_scaled(boxes: Array, masks: Array) -> NDArray[np.bool_]:
    """Return (N,) True if a mask equals its box scaled along x and along y, as after resizing the image."""
    scale = np.tile((masks[:, 2:] - masks[:, :2]) / np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-6), (1, 2))
    plain = ((scale > 0.02) & (scale < 50)).all(axis=1)
    return plain & _near(masks, boxes * scale, EXACT, EXACT_SHARE)


def _by_pixels(text: msgspec.Raw, kind: int, box: Array, size: Array, bad: bool) -> Reading:
    """Return the reading of one object by the pixels of its mask; ``box``: corners, clipped to the image."""
    if kind == MaskKind.RUN_LENGTHS:
        rle = run_lengths(text)
        for reading, other in _misread(rle):
            rows, columns = np.flatnonzero(other.any(axis=1)), np.flatnonzero(other.any(axis=0))
            if len(rows):
                bounds = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], np.float64)
                if _near(bounds, box[None], *((SLACK, SLACK_SHARE) if bad else (EXACT, EXACT_SHARE)))[0]:
                    return reading
    elif size.min() > 0:
        rle = encode_segmentation(parse(text), int(size[1]), int(size[0]))
    else:
        return Reading.UNEXPLAINED if bad else Reading.AGREES
    if not bad:
        return Reading.AGREES
    height, width = rle["size"]
    wide = np.array([[*(box[:2] - SLACK), *(box[2:] - box[:2] + 2 * SLACK)]])
    (within,) = coco_mask.iou([rle], coco_mask.frPyObjects(wide, height, width), [1]).ravel()
    covers = coco_mask.area(rle) / max(1.0, float((box[2] - box[0]) * (box[3] - box[1])))
    return Reading.AGREES if within >= LEAST_INSIDE and covers >= LEAST_COVER / 4 else Reading.UNEXPLAINED


def _misread(rle: Rle) -> Iterator[tuple[Reading, NDArray[np.uint8]]]:
    """Yield a mask decoded as row-major run lengths, as inverted run lengths, and as both."""
    mask = coco_mask.decode(rle)
    rows = mask.T.reshape(mask.shape)
    yield Reading.ROWS, rows
    yield Reading.INVERTED, 1 - mask
    yield Reading.ROWS, 1 - rows

"""Bounds and areas of the masks of a block of annotations, computed as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from engine.dataset.masks import encode_segmentation
from engine.dataset.segmentations import FARTHEST, MaskKind, decode_polygons, decode_run_lengths, parse
from engine.dataset.types import Rle

FEW_PIXELS = 16
"""Polygons with a smaller area (square pixels) are drawn, to test if they cover a pixel at all."""


@dataclass(frozen=True, eq=False)
class MaskShapes:
    """Bounds and areas of N masks; NaN without a mask, or if it was not read.

    Attributes:
        bounds_xyxy: (N, 4) float64, corners in pixels, not clipped to the image.
        areas: (N,) float64, pixels of run lengths, the enclosed area of polygons; 0 for a mask without a pixel.
    """

    bounds_xyxy: NDArray[np.float64]
    areas: NDArray[np.float64]


def mask_shapes(
    segmentations: Sequence[msgspec.Raw],
    kinds: NDArray[np.int8],
    sizes: NDArray[np.float64],
    *,
    chosen: NDArray[np.bool_],
    drawn: NDArray[np.bool_],
) -> MaskShapes:
    """Compute bounds and areas of the chosen ones of N masks.

    Args:
        segmentations: Raw JSON from the file.
        kinds: (N,) :class:`MaskKind`.
        sizes: (N, 2) width and height of each image in pixels, 0 if unknown.
        chosen: (N,) the masks to read.
        drawn: (N,) the polygons whose pixels are counted, as COCO defines area; for the others the enclosed area is
            enough.
    """
    count = len(segmentations)
    bounds, areas = np.full((count, 4), np.nan), np.full(count, np.nan)
    outlined = chosen & ((kinds == MaskKind.POLYGONS) | (kinds == MaskKind.RECTANGLE))
    where = np.flatnonzero(outlined)
    if len(where):
        decoded = decode_polygons([segmentations[int(i)] for i in where])
        where = where[[bool(polygons) for polygons in decoded]]
        bounds[where], areas[where] = _of_polygons([polygons for polygons in decoded if polygons])
        far = ~(np.abs(bounds[where]) < FARTHEST).all(axis=1)  # not drawn either
        bounds[where[far]], areas[where[far]] = np.nan, np.nan
    small = (areas[where] < FEW_PIXELS) | drawn[where]
    for i in where[small & (sizes[where].min(axis=1, initial=np.inf) > 0)]:
        pixels = _drawn_area(parse(segmentations[int(i)]), sizes[i])
        areas[i] = pixels if drawn[i] or not pixels else areas[i]
    where = np.flatnonzero(chosen & (kinds == MaskKind.RUN_LENGTHS))
    if len(where):
        rles = decode_run_lengths([segmentations[int(i)] for i in where])
        bounds[where] = np.asarray(coco_mask.toBbox(rles), np.float64)
        bounds[where, 2:] += bounds[where, :2]
        areas[where] = list(map(coco_mask.area, rles))  # of 256 or more at a time it fails
    return MaskShapes(bounds, areas)


def run_lengths(segmentation: msgspec.Raw) -> Rle:
    """Return the compressed run lengths of a segmentation of kind :attr:`MaskKind.RUN_LENGTHS`."""
    return decode_run_lengths([segmentation])[0]


def _drawn_area(segmentation: Any, size: NDArray[np.float64]) -> int:
    """Return the pixels that a parsed segmentation covers in an image of this width and height."""
    if not segmentation:
        return 0
    return int(coco_mask.area(encode_segmentation(segmentation, int(size[1]), int(size[0]))))


def _of_polygons(objects: list[list[list[float]]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (N, 4) corners and (N,) enclosed areas of N objects with at least one polygon each."""
    polygons = [[p for p in parts if len(p) >= 6] or parts for parts in objects]
    of_object = np.fromiter(map(len, polygons), np.int64, len(polygons))
    lengths = np.fromiter((len(p) for parts in polygons for p in parts), np.int64, int(of_object.sum()))
    flat = chain.from_iterable(chain.from_iterable(polygons))
    points = np.fromiter(flat, np.float64, int(lengths.sum())).reshape(-1, 2)
    ends = np.cumsum(lengths // 2)
    starts = ends - lengths // 2
    following = np.arange(1, len(points) + 1)
    following[ends - 1] = starts
    x, y = points[:, 0], points[:, 1]
    cross = x * y[following] - x[following] * y
    enclosed = np.abs(np.add.reduceat(cross, starts)) / 2
    first = np.cumsum(of_object) - of_object
    low = np.minimum.reduceat(points, starts[first], axis=0)
    high = np.maximum.reduceat(points, starts[first], axis=0)
    return np.concatenate([low, high], axis=1), np.add.reduceat(enclosed, first)

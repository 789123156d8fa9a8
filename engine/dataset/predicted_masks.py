"""Convert mask logits of detected boxes, on a coarse grid, to run lengths in the original image. Without torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from engine.dataset.types import Rle


def masks_in_boxes(logits: NDArray[np.floating], boxes_xyxy: NDArray[np.floating], size: tuple[int, int]) -> list[Rle]:
    """Return the mask of each box: where its logits, scaled bilinearly to the image, are positive inside the box.

    Args:
        logits: (N, rows, columns) over the whole image, with half-pixel centres.
        boxes_xyxy: (N, 4) corners in pixels of the image.
        size: Height and width of the image in pixels.
    """
    return [_in_box(one, box, size) for one, box in zip(logits, boxes_xyxy, strict=True)]


def _in_box(logits: NDArray[np.floating], box: NDArray[np.floating], size: tuple[int, int]) -> Rle:
    height, width = size
    low, high = np.floor(box[:2]).astype(int).tolist(), np.ceil(box[2:]).astype(int).tolist()
    left, top = max(low[0], 0), max(low[1], 0)
    right, bottom = max(min(high[0], width), left), max(min(high[1], height), top)
    above, below, down = _neighbours(top, bottom, len(logits) / height, len(logits))
    before, after, along = _neighbours(left, right, logits.shape[1] / width, logits.shape[1])
    rows = logits[above] * (1 - down[:, None]) + logits[below] * down[:, None]
    inside = rows[:, before] * (1 - along) + rows[:, after] * along > 0
    columns = np.zeros((right - left, height), np.bool_)
    columns[:, top:bottom] = inside.T
    return _run_lengths(columns.ravel(), left * height, size)


def _neighbours(
    start: int, end: int, scale: float, cells: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Return for each pixel the cells around its centre, and the weight of the second one."""
    position = np.clip((np.arange(start, end) + 0.5) * scale - 0.5, 0, cells - 1)
    first = position.astype(np.intp)
    return first, np.minimum(first + 1, cells - 1), position - first


def _run_lengths(pixels: NDArray[np.bool_], offset: int, size: tuple[int, int]) -> Rle:
    """Encode pixels in the order of columns that begin at a position; all others are outside."""
    padded = np.concatenate([[False], pixels, [False]])
    changes: Sequence[int] = (np.flatnonzero(padded[1:] != padded[:-1]) + offset).tolist()
    counts = np.diff([0, *changes, size[0] * size[1]]).tolist()
    encoded: Rle = coco_mask.frPyObjects({"size": list(size), "counts": counts}, *size)
    return encoded

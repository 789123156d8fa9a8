"""Masks of objects as targets of a student: shares of cells of a coarse grid, some of which are ignored."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.dataset.images.preprocessing import Geometry
from engine.dataset.types import Sample

IGNORED = -1.0
"""Value of a cell that is neither inside nor outside."""


def mask_targets(sample: Sample, geometry: Geometry, grid: tuple[int, int], *, boundary: int) -> NDArray[np.float32]:
    """Return the masks of all objects of a sample on a grid over the model's input.

    Args:
        sample: The image with its objects.
        geometry: Position of the image in the model's input.
        grid: Rows and columns of cells.
        boundary: Cells on either side of the outline of a teacher's mask that are ignored; see
            :func:`ignore_boundary`. A label with a score below 1 is a teacher's.

    Returns:
        (N, rows, columns) float32: the share of each cell inside the mask, or :data:`IGNORED`. An object without a
        mask has only ignored cells.
    """
    if sample.masks is None:
        return np.full((len(sample), *grid), IGNORED, np.float32)
    covered = geometry.coverage(sample.masks, grid)
    for cells, score in zip(covered, sample.object_scores, strict=True):
        if not cells.any():
            cells[:] = IGNORED
        elif score < 1 and boundary:
            cells[:] = ignore_boundary(cells, boundary)
    return covered


def ignore_boundary(cells: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Return a mask whose cells near its outline are :data:`IGNORED`: a teacher is least sure of those.

    A mask that would have no inside left is returned as it is.

    Args:
        cells: (rows, columns) float32, shares inside the mask.
        width: Cells on either side of the outline.
    """
    inside = (cells >= 0.5).astype(np.uint8)
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    # The edge of the image is no outline: erosion and dilation see nothing beyond it.
    eroded, dilated = cv2.erode(inside, square), cv2.dilate(inside, square)
    if not eroded.any():
        return cells
    return np.where(eroded == dilated, eroded.astype(np.float32), np.float32(IGNORED))

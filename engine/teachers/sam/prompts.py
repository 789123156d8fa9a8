"""Select the objects, boxes and points that prompt SAM in training. Plain numpy.

Boxes are xyxy and points (column, row), both in pixels of the original image and as ``SamPredictor`` takes them: a box
as in COCO (its right edge is x + width), a point as the indices of its pixel. SAM adds half a pixel to both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.dataset.types import CocoAnnotation, Sample


def take_turns(annotations: Sequence[CocoAnnotation], limit: int, visit: int) -> NDArray[np.int64]:
    """Select up to ``limit`` objects of an image for one visit, among those with a mask that are not crowds.

    They are used in turn, in a fixed shuffled order: of n objects each is used once before any is used twice, and all
    of them within ceil(n / limit) visits.

    Args:
        annotations: Annotations of the image.
        limit: Maximum number of objects.
        visit: Number of earlier visits of the image.

    Returns:
        (N,) indices in ``annotations``, ascending.
    """
    usable = [i for i, found in enumerate(annotations) if found.segmentation and not found.iscrowd]
    shuffled = np.random.default_rng(len(usable)).permutation(np.asarray(usable, np.int64))
    turn = visit * limit + np.arange(min(limit, len(usable)))
    return np.sort(shuffled[turn % max(1, len(usable))])


def targets_of(sample: Sample) -> NDArray[np.int64]:
    """Return the (N,) indices of the trainable objects: those with a mask that are not crowds."""
    if sample.masks is None:
        return np.empty(0, np.int64)
    return np.flatnonzero(~sample.is_crowd & sample.masks.any(axis=(1, 2))).astype(np.int64)


def jitter_boxes(
    boxes_xyxy: NDArray[np.float32], *, std: float, width: int, height: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Jitter boxes, to imitate a detector.

    Each edge moves by normal noise, truncated at two standard deviations, and stays inside the image (arXiv:2304.02643,
    appendix A, uses 10 % of the box sides). A box that would become thinner than a pixel does not change.

    Args:
        boxes_xyxy: (N, 4) corners in pixels.
        std: Standard deviation of the noise, in box sides.
        width: Image width in pixels.
        height: Image height in pixels.
        rng: Source of the noise.

    Returns:
        (N, 4) float32.
    """
    edges = boxes_xyxy.reshape(-1, 2, 2)  # (box, first or second corner, x or y)
    sides = edges[:, 1] - edges[:, 0]
    noise = np.clip(rng.standard_normal(edges.shape), -2, 2) * std * sides[:, None]
    moved = np.sort(np.clip(edges + noise, 0, (width, height)), axis=1)
    thin = moved[:, 1] - moved[:, 0] < 1
    moved = np.where(thin[:, None], edges, moved)
    return moved.reshape(-1, 4).astype(np.float32)


def draw_points(masks: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw one pixel of each mask, uniformly.

    Args:
        masks: (N, H, W), none of them empty.
        rng: Source of the choices.

    Returns:
        (N, 2) float32, (column, row).
    """
    points = np.empty((len(masks), 2), np.float32)
    for point, mask in zip(points, masks, strict=True):
        pixels = np.flatnonzero(mask)
        row, column = divmod(int(pixels[rng.integers(len(pixels))]), mask.shape[1])
        point[:] = column, row
    return points

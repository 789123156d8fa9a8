"""What SAM is asked in training: which objects of an image, by which boxes and points. Plain numpy.

Boxes are corners and points are pixels, both in pixels of the original image and as ``SamPredictor`` takes them: a
box as in COCO (its right edge is x + width), a point as (column, row) of its pixel. SAM adds the half pixel to both.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.dataset.types import Sample


def draw_objects(sample: Sample, limit: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """At most ``limit`` objects with a mask, drawn without replacement; crowds are never drawn.

    Every visit draws anew, so all objects of a full image are seen over the epochs.

    Returns:
        (N,) indices into the sample, ascending.
    """
    if sample.masks is None:
        return np.empty(0, np.int64)
    usable = np.flatnonzero(~sample.is_crowd & sample.masks.any(axis=(1, 2)))
    if len(usable) > limit:
        usable = np.sort(rng.choice(usable, size=limit, replace=False))
    return usable.astype(np.int64)


def jitter_boxes(
    boxes_xyxy: NDArray[np.float32], *, std: float, width: int, height: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Boxes as a detector would draw them.

    Each edge moves by normal noise, cut off at two standard deviations, and stays inside the image (arXiv:2304.02643,
    appendix A, has 10 % of the box sides). A box that would become thinner than a pixel keeps its edges.

    Args:
        boxes_xyxy: (N, 4) corners in pixels.
        std: Standard deviation of the noise, in box sides.
        width: Of the image, in pixels.
        height: Of the image, in pixels.
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
    """One pixel of each mask, any as likely as any other.

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

"""Order of the images of an epoch in which those of a step have similar shapes. Pure."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from engine.dataset.types import CocoDataset

WINDOW = 16
"""Steps within which images of similar shapes are grouped."""


def shapes_of(dataset: CocoDataset) -> tuple[int, ...]:
    """Return the aspect ratio class of each image, in steps of a fifth; empty if a size is unknown."""
    sizes = [(image.height, image.width) for image in dataset.images]
    known = [(height, width) for height, width in sizes if height and width]
    return tuple(round(4 * math.log2(height / width)) for height, width in known) if len(known) == len(sizes) else ()


def group_by_shape(
    order: NDArray[np.int64], shapes: NDArray[np.int64], *, size: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Reorder images so that those of a step have similar shapes and need little padding.

    Images are reordered within windows of :data:`WINDOW` steps, and steps are shuffled within their window: positions
    in the epoch, and the composition of steps, remain random.

    Args:
        order: (N,) images in random order.
        shapes: (images,) shape classes.
        size: Images per step.
        rng: Shuffles the steps of a window.

    >>> shapes = np.array([0, 9, 0, 9, 0, 9])
    >>> sorted(group_by_shape(np.arange(6), shapes, size=3, rng=np.random.default_rng(0)).reshape(2, 3).tolist())
    [[0, 2, 4], [1, 3, 5]]
    """
    if len(set(shapes.tolist())) < 2:
        return order
    parts = []
    for start in range(0, len(order), WINDOW * size):
        window = order[start : start + WINDOW * size]
        whole, rest = np.split(window, [len(window) // size * size])
        whole = whole[np.argsort(shapes[whole], kind="stable")]
        parts += [rng.permutation(whole.reshape(-1, size)).ravel(), rest]
    return np.concatenate(parts)

"""An image of two objects with masks, for students that learn masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine.dataset.types import Sample


def image_sample(*, score: float = 1.0) -> Sample:
    """A disc of class 0 and a triangle of class 1 on noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:60, :90]
    masks = np.stack([(x - 30) ** 2 + (y - 25) ** 2 < 15**2, (x > 60) & (y > 30) & (x + y < 130)])
    boxes = [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] for ys, xs in map(np.nonzero, masks)]
    sample = Sample.of(rng.integers(0, 255, (60, 90, 3), dtype=np.uint8), boxes, [0, 1])
    return replace(sample, masks=masks, scores=np.full(2, score, np.float32))


SAMPLE = image_sample()

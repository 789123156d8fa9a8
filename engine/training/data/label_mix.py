"""Steps with a fixed share of images with human labels, the others with labels of teachers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Key = tuple[int, int]
"""(visit, index of the image): one view of one image. The visit is the number of earlier uses of the image in the run:
its epoch, unless classes are balanced."""


def mixed_views(step: int, *, human: int, others: int, share: float, batch_size: int, seed: int) -> list[Key]:
    """Return the views of one step; at least one image of each kind.

    Args:
        step: Number of the step, from 0.
        human: Number of images with human labels, which come first.
        others: Number of images with labels of teachers.
        share: Share of the images of a step that have human labels.
        batch_size: Images per step.
        seed: Seed of the order.
    """
    own = min(batch_size - 1, max(1, round(share * batch_size)))
    labelled = _in_turn(others, batch_size - own, step, seed=[seed, 1])
    keys = _in_turn(human, own, step, seed=[seed, 0])
    keys += [(visit, human + index) for visit, index in labelled]
    order = np.random.default_rng([seed, 2, step]).permutation(len(keys))
    return [keys[place] for place in order]


def _in_turn(images: int, each: int, step: int, *, seed: Sequence[int]) -> list[Key]:
    """Return the views of one step that takes ``each`` of ``images`` images, in shuffled passes one after another.

    >>> [sorted(_in_turn(2, 2, step, seed=[0])) for step in range(2)]
    [[(0, 0), (0, 1)], [(1, 0), (1, 1)]]
    """
    views = []
    for position in range(step * each, (step + 1) * each):
        visit, place = divmod(position, images)
        views.append((visit, int(_pass(images, (*seed, visit))[place])))
    return views


@lru_cache(maxsize=8)
def _pass(images: int, seed: tuple[int, ...]) -> NDArray[np.int64]:
    return np.random.default_rng(seed).permutation(images)

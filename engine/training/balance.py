"""How often images are shown so that rare classes are learned too: a long tail evened out. Pure.

Repeat factors as in LVIS (Gupta et al. 2019, arXiv:1908.03195, appendix B), but against the median class instead of a
fixed share of the images: where all classes are equally rare there is nothing to even out. An epoch stays as long as it
was, so that rare classes do not make a run dearer; images of common classes alone are shown a little less.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.dataset.types import CocoDataset

MOST_OFTEN = 4.0
"""Times that an image of a rare class is shown for one of a common class: more is learning it by heart."""


def repeats(dataset: CocoDataset, *, exponent: float) -> tuple[float, ...]:
    """How often each image is shown an epoch, on average; empty if each is shown once.

    A class that n images show wants them (median / n) ** exponent times as often, an image as often as its rarest class
    wants it. Crowds do not count, nor do classes that no image shows.

    Args:
        dataset: The training part.
        exponent: 0 for no balance, 0.5 as in LVIS, 1 for classes shown equally often, but for :data:`MOST_OFTEN`.
    """
    shown = [{found.class_index for found in objects if not found.iscrowd} for objects in dataset.annotations]
    images = np.bincount([index for classes in shown for index in classes], minlength=len(dataset.classes))
    if not images.any():
        return ()
    median = np.median(images[images > 0])
    factors = np.clip((median / np.maximum(images, 1)) ** exponent, 1.0, MOST_OFTEN)
    wanted = np.array([max((float(factors[i]) for i in classes), default=1.0) for classes in shown])
    if wanted.max() == 1.0:
        return ()
    return tuple((wanted * len(wanted) / wanted.sum()).tolist())


def drawn(factors: Sequence[float], rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices for one epoch, shuffled, as many as there are images: i floor(factors[i]) or ceil(factors[i]) times.

    Systematic sampling: every whole number that the running sum, begun at a random place, passes is a visit.

    Args:
        factors: Of each image; they add up to the number of images.
        rng: Source of the choices.
    """
    order = rng.permutation(len(factors))  # which images are left out must not hang together
    begin = rng.random()
    passed = np.floor(np.cumsum(np.asarray(factors)[order]) + begin)
    passed[-1] = len(factors)  # whatever the sum is rounded to
    visits = np.diff(passed, prepend=0).astype(np.int64)
    return rng.permutation(np.repeat(order, visits))


def visit_numbers(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each place in ``order`` how often the same index stands before it.

    >>> visit_numbers(np.array([2, 0, 2, 2, 1])).tolist()
    [0, 0, 1, 2, 0]
    """
    places = np.argsort(order, kind="stable")
    _, begins, counts = np.unique(order[places], return_index=True, return_counts=True)
    numbers = np.empty_like(order)
    numbers[places] = np.arange(len(order)) - np.repeat(begins, counts)
    return numbers

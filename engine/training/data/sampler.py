"""Images, batches and learning rate of each optimizer step, and the steps with an evaluation. Pure.

All of these are functions of the step number, so that a run resumes from any step as if it had never stopped. Images
of rare classes may be repeated (class balance).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from engine.config import ModelSettings
from engine.dataset.types import CocoDataset
from engine.processes.launch import Rank
from engine.training.data.label_mix import Key as Key
from engine.training.data.label_mix import mixed_views
from engine.training.data.shape_groups import group_by_shape

ANNEALING_PERCENT = 10
"""Steps of a run that is stopped early after the decision, in percent of the planned ones: a decay of a tenth of the
steps reaches the loss of a whole cosine (Hu et al. 2024, arXiv:2404.06395, section 4)."""


@dataclass(frozen=True)
class Steps:
    """The optimizer steps of a run. Steps, like epochs, are counted from 0.

    Attributes:
        images: Images of the training split.
        batch_size: Images per step, over all processes; the last step of an epoch may have fewer.
        epochs: Passes over the training split.
        evaluations: Number of evaluations, at most one per epoch.
        seed: Seed of the order of the images.
        rank: Rank of this process, which gets a share of each step. The images of a step do not depend on it.
        repeats: Mean uses of each image per epoch; empty: one.
        shapes: Shape class of each image: images of one class need little padding in a batch; empty: all are alike.
        micro_batch_size: Maximum images per forward pass; None: all of a step.
        anneals: A run that is stopped early passes the rest of its schedule in few steps; otherwise it just ends.
        stopped_at: Steps done when the run was stopped early; None: it was not.
        human: Images with human labels, which come first; the others have labels of teachers. None: all have.
        human_share: Share of the images of each step that have human labels, if others have not.
    """

    images: int
    batch_size: int
    epochs: int
    evaluations: int
    seed: int
    rank: Rank = field(default_factory=Rank)
    repeats: tuple[float, ...] = ()
    shapes: tuple[int, ...] = ()
    micro_batch_size: int | None = None
    anneals: bool = True
    stopped_at: int | None = None
    human: int | None = None
    human_share: float = 1.0

    @classmethod
    def of(
        cls,
        settings: ModelSettings,
        *,
        images: int,
        seed: int,
        rank: Rank | None = None,
        repeats: tuple[float, ...] = (),
        shapes: tuple[int, ...] = (),
        micro_batch_size: int | None = None,
        human: int | None = None,
        human_share: float = 1.0,
    ) -> Steps:
        """Return the steps for a teacher's settings."""
        return cls(
            images=images,
            batch_size=settings.batch_size,
            epochs=settings.epochs,
            evaluations=settings.evaluations,
            seed=seed,
            rank=rank or Rank(),
            repeats=repeats,
            shapes=shapes,
            micro_batch_size=micro_batch_size or settings.micro_batch_size,
            anneals=settings.schedule == "cosine",
            human=human,
            human_share=human_share,
        )

    @property
    def per_epoch(self) -> int:
        """Steps per epoch."""
        return math.ceil(self.images / self.batch_size)

    @property
    def largest_batch(self) -> int:
        """Maximum images per forward pass, the same on all processes."""
        share = math.ceil(self.batch_size / self.rank.size)
        return min(self.micro_batch_size or share, share)

    @property
    def planned(self) -> int:
        """Steps of the whole run if it is not stopped early."""
        return self.per_epoch * self.epochs

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        if self.stopped_at is None:
            return self.planned
        annealing = math.ceil(self.planned * ANNEALING_PERCENT / 100) if self.anneals else 0
        return min(self.planned, self.stopped_at + annealing)

    def scheduled_at(self, step: int) -> float:
        """Return the position of a step in the planned schedule, whose rest is passed faster after an early stop.

        >>> steps = Steps(images=8, batch_size=4, epochs=50, evaluations=2, seed=0, stopped_at=60)
        >>> steps.total, [steps.scheduled_at(step) for step in (59, 60, 65, 70)]
        (70, [59, 60.0, 80.0, 100.0])
        """
        if self.stopped_at is None or step < self.stopped_at:
            return step
        return self.stopped_at + (step - self.stopped_at) * (self.planned - self.stopped_at) / (
            self.total - self.stopped_at
        )

    def epochs_at(self, step: int) -> float:
        """Return the passes over the training split after ``step`` steps."""
        return step / self.per_epoch

    def views(self, step: int) -> list[Key]:
        """Return the views of one step over all processes: images in the shuffled order of its epoch.

        With labels of teachers each step has the same number of images of both kinds; each kind is used in turn, in
        passes that are shuffled on their own.
        """
        if self.human is not None and 0 < self.human < self.images:
            return mixed_views(
                step,
                human=self.human,
                others=self.images - self.human,
                share=self.human_share,
                batch_size=self.batch_size,
                seed=self.seed,
            )
        epoch, within = divmod(step, self.per_epoch)
        order, visits = _order(self.images, self.seed, epoch, self.repeats, self.shapes, self.batch_size)
        some = slice(within * self.batch_size, (within + 1) * self.batch_size)
        return [(int(visit), int(index)) for index, visit in zip(order[some], visits[some], strict=True)]

    def batches(self, step: int) -> list[list[Key]]:
        """Return the micro-batches of one step on this process; empty if there are fewer images than processes."""
        keys, size = self.rank.share(self.views(step)), self.largest_batch
        return [keys[i : i + size] for i in range(0, len(keys), size)]

    def batches_from(self, step: int) -> Iterator[list[Key]]:
        """Yield all micro-batches of the run on this process from ``step`` on."""
        for later in range(step, self.total):
            yield from self.batches(later)

    def evaluated_after(self, done: int) -> bool:
        """Return whether an evaluation follows ``done`` steps: evenly over the epochs, and at the end.

        >>> steps = Steps(images=8, batch_size=4, epochs=5, evaluations=2, seed=0)
        >>> [done for done in range(11) if steps.evaluated_after(done)]
        [6, 10]
        """
        return done > 0 and self.evaluations_left(done) < self.evaluations_left(done - 1)

    def evaluations_left(self, done: int) -> int:
        """Return the evaluations left after ``done`` steps; the i-th of n follows epoch ceil(i * epochs / n).

        One follows the last step, wherever that is.
        """
        return 0 if done >= self.total else self._planned_left(done) - self._planned_left(self.total - 1) + 1

    def _planned_left(self, done: int) -> int:
        times = min(self.evaluations, self.epochs)
        return times - done // self.per_epoch * times // self.epochs


@lru_cache(maxsize=2)
def _order(
    images: int, seed: int, epoch: int, repeats: tuple[float, ...], shapes: tuple[int, ...], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the images of one epoch, in steps of ``size``, and the number of earlier uses of each in the run."""
    order = _images_of(images, seed, epoch, repeats)
    if shapes:
        order = group_by_shape(order, np.asarray(shapes), size=size, rng=np.random.default_rng([seed, epoch, 1]))
    if not repeats:
        return order, np.full(images, epoch)
    before = np.zeros(images, np.int64)
    for earlier in range(epoch):
        before += np.bincount(_images_of(images, seed, earlier, repeats), minlength=images)
    return order, before[order] + visit_numbers(order)


def _images_of(images: int, seed: int, epoch: int, repeats: tuple[float, ...]) -> NDArray[np.int64]:
    rng = np.random.default_rng([seed, epoch])
    return draw_images(repeats, rng) if repeats else rng.permutation(images)


def learning_rate(step: float, total: int, settings: ModelSettings) -> float:
    """Return the learning rate of one step (from 0): linear warm-up to the peak, then constant or half a cosine to 0.

    The peak is reached by the last step of the warm-up. The cosine is that of SGDR (arXiv 1608.03983) without
    restarts.
    """
    warmup = round(total * settings.warmup_fraction)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    if settings.schedule == "constant":
        return settings.learning_rate
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


MOST_OFTEN = 4.0
"""Maximum repeat factor of an image of a rare class: more would overfit."""


def repeat_factors(dataset: CocoDataset, *, exponent: float) -> tuple[float, ...]:
    """Return the mean repeats of each image per epoch; empty if each image is used once.

    Repeat factors as in LVIS (Gupta et al. 2019, arXiv:1908.03195, appendix B), relative to the median class instead of
    a fixed share of the images: a class with n images has factor (median / n) ** exponent, an image the factor of its
    rarest class. Crowds and classes without images do not count. The length of an epoch does not change: images of
    common classes alone are used a little less.

    Args:
        dataset: The training split.
        exponent: 0 for no balance, 0.5 as in LVIS, 1 for equal frequencies, up to :data:`MOST_OFTEN`.
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


def draw_images(factors: Sequence[float], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw the shuffled indices of one epoch: image i floor(factors[i]) or ceil(factors[i]) times, N in total.

    Systematic sampling: an image is used once for each integer that the cumulative sum, with a random offset, passes.

    Args:
        factors: Repeat factor of each image; they add up to the number of images.
        rng: Random generator.
    """
    order = rng.permutation(len(factors))  # omitted images must be independent
    begin = rng.random()
    passed = np.floor(np.cumsum(np.asarray(factors)[order]) + begin)
    passed[-1] = len(factors)  # independent of rounding of the sum
    visits = np.diff(passed, prepend=0).astype(np.int64)
    return rng.permutation(np.repeat(order, visits))


def visit_numbers(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return, for each position in ``order``, the number of earlier positions with the same index.

    >>> visit_numbers(np.array([2, 0, 2, 2, 1])).tolist()
    [0, 0, 1, 2, 0]
    """
    places = np.argsort(order, kind="stable")
    _, begins, counts = np.unique(order[places], return_index=True, return_counts=True)
    numbers = np.empty_like(order)
    numbers[places] = np.arange(len(order)) - np.repeat(begins, counts)
    return numbers

"""Measure the recent speed of training and estimate the remaining time."""

from __future__ import annotations

from collections import deque

from engine.training.data.sampler import Steps


class Pace:
    """Recent speed of training and the estimated remaining time."""

    def __init__(self) -> None:
        self._steps: deque[tuple[float, int]] = deque(maxlen=50)
        self.evaluation_seconds = 0.0

    def step(self, seconds: float, *, images: int) -> None:
        """Record a step of ``seconds`` for ``images`` images."""
        self._steps.append((seconds, images))

    @property
    def images_per_second(self) -> float:
        """Speed of training, without evaluations."""
        return sum(images for _, images in self._steps) / max(1e-9, sum(seconds for seconds, _ in self._steps))

    def seconds_left(self, steps: Steps, done: int) -> float:
        """Return the estimated seconds until the end, including the remaining evaluations."""
        a_step = sum(seconds for seconds, _ in self._steps) / len(self._steps)
        return (steps.total - done) * a_step + steps.evaluations_left(done) * self.evaluation_seconds

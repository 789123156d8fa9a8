"""Place of one training among several of a teacher, for its progress events. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from engine.results.events import Event


@dataclass(frozen=True)
class Position:
    """Place of a training among all of a teacher.

    Attributes:
        number: From 1.
        count: Number of trainings.
        before: Steps of the trainings before it.
        total: Steps of all trainings.
        best_ap: Best AP of earlier trials; None for folds, whose images differ.
    """

    number: int
    count: int
    before: int
    total: int
    best_ap: float | None = None

    @classmethod
    def of(cls, index: int, steps: Sequence[int], *, best_ap: float | None = None) -> Self:
        """Return the place of the training at ``index`` among trainings of so many steps."""
        return cls(index + 1, len(steps), sum(steps[:index]), sum(steps), best_ap)

    def place(self, event: Event) -> Event:
        """Return an event of the training as one of all trainings."""
        changes: dict[str, Any] = {"trial": self.number, "trials": self.count}
        if event.step is not None:
            changes["step"] = self.before + event.step
        if event.steps is not None:
            changes["steps"] = self.total
        if event.seconds_left is not None and event.step is not None and event.steps:
            left = max(1, event.steps - event.step)
            changes["seconds_left"] = event.seconds_left * (self.total - self.before - event.step) / left
        if self.best_ap is not None:
            if event.best and (event.ap is None or event.ap <= self.best_ap):
                changes["best"] = False
            changes["best_ap"] = self.best_ap if event.best_ap is None else max(self.best_ap, event.best_ap)
        return event.model_copy(update=changes)

"""The trainer's progress lines: one JSON object per line, to follow a run by program.

The command line and the operator parse these lines from the trainer's standard output; other lines are skipped. Fields
may be added, but are never removed.

A new run emits notes, the evaluation of its base, start, and then steps, evaluations and checkpoints; a resumed run has
no evaluation before start. The base is evaluated while training images are still being fetched, so that this
evaluation has no ``steps`` and ``epochs``.

The last lines are enough to know the state: every start, step, evaluation and checkpoint contains the progress
(``step`` of ``steps``, ``epochs``) and, once known, the AP of the base (``ap_before``) and of the best adapter that is
better than it (``best_ap``); a step also contains ``loss``, ``seconds_left`` and ``memory_bytes``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

EventKind = Literal["start", "step", "evaluation", "checkpoint", "note", "done", "error"]


class Event(BaseModel):
    """One progress line. Unset fields are left out of the line."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    event: EventKind
    teacher: str = Field(default="", description="Slug of the teacher.")
    time: float = Field(default_factory=time.time, description="Seconds since the epoch.")
    step: int | None = Field(default=None, description="Optimizer steps done.")
    steps: int | None = Field(default=None, description="Optimizer steps of the whole run.")
    trial: int | None = Field(
        default=None, description="Number of the current training of several, from 1: a trial of a sweep, or a fold."
    )
    trials: int | None = Field(default=None, description="Number of trainings; ``steps`` are those of all of them.")
    epoch: float | None = Field(default=None, description="Passes over the training split so far.")
    epochs: int | None = None
    loss: float | None = Field(default=None, description="Mean loss since the last step line.")
    losses: dict[str, float] | None = Field(default=None, description="Its parts.")
    learning_rate: float | None = None
    images_per_second: float | None = None
    seconds_left: float | None = None
    memory_bytes: int | None = Field(default=None, description="Peak GPU memory, or resident memory on a CPU.")
    ap: float | None = Field(default=None, description="AP of an evaluation, 0..1.")
    ap_before: float | None = Field(default=None, description="AP of the base on the validation split, once measured.")
    best_ap: float | None = Field(
        default=None, description="AP of the best adapter so far; None while none is better than the base."
    )
    best: bool | None = Field(default=None, description="The evaluation is the best so far, and better than the base.")
    phase: str | None = Field(
        default=None, description="What is evaluated: base, adapted, test, retention_base or retention."
    )
    message: str | None = Field(default=None, description="A sentence for people.")
    reason: str | None = Field(default=None, description="CamelCase cause of an error.")
    exit_code: int | None = None

    def line(self) -> str:
        """Return the event as one line of JSON, without the newline."""
        return self.model_dump_json(exclude_none=True)


def better_than(base_ap: float | None, ap: float | None) -> float | None:
    """Return the AP of an adapter if it is better than the base, else None.

    >>> better_than(0.3, 0.4), better_than(0.3, 0.2), better_than(None, 0.2), better_than(0.3, None)
    (0.4, None, 0.2, None)
    """
    return ap if ap is not None and (base_ap is None or ap > base_ap) else None


Listener = Callable[[Event], None]
"""A function that receives events."""


def ignore_event(event: Event) -> None:
    """Do nothing: a listener for runs without progress output."""


def parse_line(line: str) -> Event | None:
    """Parse a line of a trainer's output; None if it is not an event."""
    text = line.strip()
    if not text.startswith("{"):
        return None
    try:
        return Event.model_validate_json(text)
    except ValidationError:
        return None

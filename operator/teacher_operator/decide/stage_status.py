"""Changes of the status of a stage that several modules share. Pure."""

from __future__ import annotations

from typing import TypeVar

from teacher_operator.api.status import FailureStatus, StageStatus, clip
from teacher_operator.api.timestamps import timestamp

S = TypeVar("S", bound=StageStatus)

ENDED = frozenset({"Succeeded", "Failed"})
TRAINING, RUNNING = "Training", "Running"
"""States of a stage whose pods run: of a teacher, and of any other stage."""


def in_state(stage: S, state: str, message: str) -> S:
    """Return a stage in a state, with the reason."""
    return stage.model_copy(update={"state": state, "message": clip(message)})


def runs(stage: StageStatus) -> bool:
    """Return True if the pods of a stage run."""
    return stage.state in {TRAINING, RUNNING}


def failed_for_good(stage: S, failure: FailureStatus, *, now: float) -> S:
    """Return a stage that has failed and is not retried."""
    return stage.model_copy(
        update={
            "state": "Failed",
            "message": failure.message,
            "completion_time": timestamp(now),
            "failure": failure,
        }
    )

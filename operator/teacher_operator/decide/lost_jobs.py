"""Jobs that ended without an outcome: they are replaced, a limited number of times. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from teacher_operator.api.status import LOST, FailureStatus, clip
from teacher_operator.decide.job_state import JobView

MAX_REPLACEMENTS = 5
"""Maximum number of replacements of the Job of a stage. It is independent of ``spec.backoffLimit``, since the run
itself did not cause these failures."""


def with_lost(known: Sequence[str], view: JobView, *, limit: int = MAX_REPLACEMENTS) -> list[str] | None:
    """Return the uids of lost Jobs including that of ``view``; None if no further Job may be created.

    A Job counts once, however often it is read while it is being deleted.
    """
    uid = str(view.job["metadata"]["uid"])
    if uid in known:
        return list(known)
    return [*known, uid] if len(known) < min(limit, LOST) else None


def after(failure: FailureStatus, known: Sequence[str]) -> FailureStatus:
    """Return the failure of the last Job, with the total number of Jobs in its message."""
    if not known:
        return failure
    times = f" (Job {len(known) + 1}, the last)"
    return failure.model_copy(update={"message": clip(failure.message, 2048) + times})

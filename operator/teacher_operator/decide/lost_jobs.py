"""Jobs that ended without an outcome that says why: they are made again, a bounded number of times. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from teacher_operator.api.status import LOST, FailureStatus, clip
from teacher_operator.decide.job_state import JobView

MAX_REPLACEMENTS = 5
"""Number of times that the Job of a teacher, or of inspection, is made again. ``spec.backoffLimit`` has no
part in it: what stopped these pods was not the run."""


def with_lost(known: Sequence[str], view: JobView, *, limit: int = MAX_REPLACEMENTS) -> list[str] | None:
    """Return the uids of lost Jobs with that of one more; None if no further Job may be made.

    A Job counts once, however often it is read while it is being deleted.
    """
    uid = str(view.job["metadata"]["uid"])
    if uid in known:
        return list(known)
    return [*known, uid] if len(known) < min(limit, LOST) else None


def after(failure: FailureStatus, known: Sequence[str]) -> FailureStatus:
    """Return the failure of a Job, with how many were made for the same work before it."""
    if not known:
        return failure
    times = f" (Job {len(known) + 1}, the last)"
    return failure.model_copy(update={"message": clip(failure.message, 2048) + times})

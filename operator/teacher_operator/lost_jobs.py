"""Jobs that ended and say nothing of why: they are made anew, and not without end. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from teacher_operator.observe import JobView
from teacher_operator.status import LOST, FailureStatus, clip

REMADE = 5
"""How often the Job of a teacher, or of inspection, is made anew. ``spec.backoffLimit`` does not matter for it: what
stopped these pods was not the run."""


def with_lost(known: Sequence[str], view: JobView, *, limit: int = REMADE) -> list[str] | None:
    """The uids of lost Jobs with that of one more; None if no more of them are made anew.

    A Job counts once, however often it is read while it is being deleted.
    """
    uid = str(view.job["metadata"]["uid"])
    if uid in known:
        return list(known)
    return [*known, uid] if len(known) < min(limit, LOST) else None


def after(failure: FailureStatus, known: Sequence[str]) -> FailureStatus:
    """The failure of a Job, with how many were made for the same work before it."""
    if not known:
        return failure
    times = f" (Job {len(known) + 1}, the last)"
    return failure.model_copy(update={"message": clip(failure.message, 2048) + times})

"""How long a Job may wait, and how long it may run. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from teacher_operator.api import TeacherFineTuneSpec
from teacher_operator.observe import Waiting
from teacher_operator.status import FailureStatus, clip
from teacher_operator.todo import Todo

WAITS = frozenset({"Pending", "Starting"})
"""States of a Job whose time counts towards pendingDeadlineSeconds."""


def waited_too_long(
    spec: TeacherFineTuneSpec, stand: Waiting, todo: Todo, *, attempts_ended: Iterable[float] = (), now: float
) -> FailureStatus | None:
    """Return the failure of a Job that has waited for longer than pendingDeadlineSeconds, else None.

    When the time will be up is noted in ``todo``. A wait after an attempt begins when that has ended.

    Args:
        spec: Of the object.
        stand: Where the Job stands.
        todo: What is to be done.
        attempts_ended: When earlier pods of the Job ended, in seconds since the epoch.
        now: Seconds since the epoch.
    """
    deadline = spec.pending_deadline_seconds
    if deadline is None or stand.since is None or stand.state not in WAITS:
        return None
    since = max([stand.since, *attempts_ended])
    if now >= since + deadline:
        return not_started(deadline, stand.message)
    todo.again(since + deadline)
    return None


def not_started(deadline: int, message: str) -> FailureStatus:
    """The failure of a Job that has not run in time, with what it waited for."""
    message = clip(f"not running after pendingDeadlineSeconds = {deadline}: {message}")
    return FailureStatus(reason="NotStartedInTime", message=message)

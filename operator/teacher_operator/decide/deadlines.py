"""Limits of the time for which a Job waits, and for which it runs. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from engine.stages import Stage
from teacher_operator.api.spec import TeacherFineTuneSpec
from teacher_operator.api.status import FailureStatus, StageStatus, clip
from teacher_operator.api.timestamps import seconds, timestamp
from teacher_operator.decide.actions import Actions
from teacher_operator.decide.job_state import JobState, JobView

S = TypeVar("S", bound=StageStatus)

WAITS = frozenset({"Pending", "Starting"})
"""States of a Job whose time counts towards pendingDeadlineSeconds."""


def waited_too_long(
    spec: TeacherFineTuneSpec, state: JobState, actions: Actions, *, attempts_ended: Iterable[float] = (), now: float
) -> FailureStatus | None:
    """Return the failure of a Job that has waited for longer than pendingDeadlineSeconds, else None.

    The end of the deadline is added to ``actions``. After an attempt, the wait begins when the attempt ended.

    Args:
        spec: Spec of the object.
        state: State of the Job.
        actions: Receives the time of the next decision.
        attempts_ended: Ends of earlier pods of the Job, in seconds since the epoch.
        now: Seconds since the epoch.
    """
    deadline = spec.pending_deadline_seconds
    if deadline is None or state.since is None or state.phase not in WAITS:
        return None
    since = max([state.since, *attempts_ended])
    if now >= since + deadline:
        return _not_started(deadline, state.message)
    actions.requeue(since + deadline)
    return None


def refused_too_long(
    spec: TeacherFineTuneSpec, refused: FailureStatus, actions: Actions, *, since: float, now: float
) -> FailureStatus | None:
    """Return the failure of a child that the API server refuses: for good, or for longer than pendingDeadlineSeconds.

    Return None while the request is retried, which is added to ``actions``.

    Args:
        spec: Spec of the object.
        refused: Reason of the refusal.
        actions: Receives the retry, and the time of the next decision.
        since: Time of the first refusal, in seconds since the epoch.
        now: Seconds since the epoch.
    """
    if refused.reason == "ChildRefused":
        return refused
    deadline = spec.pending_deadline_seconds
    if deadline is not None and now >= since + deadline:
        return _not_started(deadline, refused.message)
    if deadline is not None:
        actions.requeue(since + deadline)
    actions.retry = True
    return None


def _not_started(deadline: int, message: str) -> FailureStatus:
    """Return the failure of a Job that did not run before its deadline, with the reason of its wait."""
    message = clip(f"not running after pendingDeadlineSeconds = {deadline}: {message}")
    return FailureStatus(reason="NotStartedInTime", message=message)


def with_active_time(stage: S, view: JobView | None, *, now: float) -> S:
    """Return a stage with the time for which its Jobs were allowed to run.

    The status holds the sum of finished intervals, and the start of the current one. So the time counts over all Jobs
    of a stage and over restarts of the operator, and is written only when an interval begins or ends.

    Args:
        stage: The last known status of the stage.
        view: Its Job, if it exists.
        now: Seconds since the epoch.
    """
    begun, before = _allowed_since(view), seconds(stage.active_since)
    if begun == before:
        return stage
    present = timestamp(begun) if begun is not None else None
    if before is None:
        return stage.model_copy(update={"active_since": present})
    end = begun if begun is not None else _stopped_at(view, since=before, now=now)
    if end is None:
        return stage
    spent = stage.active_seconds + max(0, int(end - before))
    return stage.model_copy(update={"active_seconds": spent, "active_since": present})


def active_deadline(stage: Stage, spec: TeacherFineTuneSpec) -> int | None:
    """Return activeDeadlineSeconds if it applies to a stage; None for a stage with a limit of its own."""
    return spec.active_deadline_seconds if stage.run_limit_seconds is None else None


def remaining(limit: int | None, stage: StageStatus) -> int | None:
    """Return the remaining seconds of activeDeadlineSeconds for the current Job; None without a limit.

    A Job that only reads the result of a training in another cluster has no limit.
    """
    return None if limit is None or stage.dispatched else max(1, limit - stage.active_seconds)


def used_up(limit: int | None, stage: StageStatus) -> FailureStatus | None:
    """Return the failure of a stage whose earlier Jobs have used up activeDeadlineSeconds, else None.

    A Job that is allowed to run is ended by its own deadline, even if the operator does not run.
    """
    if limit is None or stage.dispatched or stage.active_since is not None or stage.active_seconds < limit:
        return None
    return ran_too_long(limit)


def containers_ran_too_long(stage: Stage, ran: float) -> FailureStatus | None:
    """Return the failure of a stage whose containers have run for ``ran`` seconds, if its limit is over; else None."""
    if stage.run_limit_seconds is None or ran < stage.run_limit_seconds:
        return None
    message = (
        f"{stage.title} has run for {stage.run_limit_seconds // 3600} hours and has not ended (time without a running "
        "container is not counted): check that the object store answers and how large the annotations are, then create "
        "a new object"
    )
    return FailureStatus(reason="DeadlineExceeded", message=message)


def ran_too_long(limit: int | None) -> FailureStatus:
    """Return the failure of a stage that was allowed to run for as long as activeDeadlineSeconds."""
    message = (
        f"not done after activeDeadlineSeconds = {limit}, over all of its Jobs: the last checkpoint is kept in object "
        "storage; raise the deadline in a new object of the same name to resume from it"
    )
    return FailureStatus(reason="DeadlineExceeded", message=message)


def _allowed_since(view: JobView | None) -> float | None:
    """Return the time since which a Job may run, in seconds since the epoch; None if it may not, or has ended."""
    if view is None or view.suspended or not view.unfinished:
        return None
    return view.started


def _stopped_at(view: JobView | None, *, since: float, now: float) -> float | None:
    """Return the end of an interval in which a Job was allowed to run, in seconds since the epoch; None if unknown."""
    if view is None:
        return now
    if view.deleting:
        return seconds(view.job["metadata"]["deletionTimestamp"])
    conditions = (view.job.get("status") or {}).get("conditions") or []
    ends = {one["type"]: one.get("lastTransitionTime") for one in conditions if one["status"] == "True"}
    for kind in ("Complete", "Failed", "Suspended"):
        if kind in ends:
            return seconds(ends[kind]) or now
    made = seconds(view.job["metadata"].get("creationTimestamp"))
    return made if made is not None and made > since else None

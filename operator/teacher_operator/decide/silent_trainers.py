"""Detection of silent trainers: their pods run, but they report no progress. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from teacher_operator.api.names import container_of
from teacher_operator.api.status import ProgressStatus, UnresponsiveStatus
from teacher_operator.api.timestamps import duration, seconds, timestamp
from teacher_operator.decide.actions import Actions
from teacher_operator.decide.job_state import JobView
from teacher_operator.decide.lost_nodes import not_ready, not_ready_since
from teacher_operator.decide.pod_state import container_status, is_first, is_over

Body = Mapping[str, Any]

LEAST_SECONDS = 600
"""Shortest silence in seconds after which a trainer counts as stale, however fast its steps are."""

AT_THE_END_SECONDS = 3600
"""The same after the last step, when the test split is evaluated and all is published, at no known pace."""

TIMES, STEPS = 3, 10
"""Shortest silence after which a trainer counts as stale, as multiples of its longest gap and of the time of a step."""

AGES, AGE_SECONDS = 20, 60
"""The remaining time is updated after 1/AGES of it, at least after AGE_SECONDS, if no progress line comes."""


def unresponsive(
    progress: ProgressStatus | None, view: JobView, actions: Actions, *, running: bool, now: float
) -> UnresponsiveStatus | None:
    """Return the reason why the trainer of a Job is silent; None if it is not.

    Args:
        progress: Progress of the trainer, from the last line that was read.
        view: Its Job.
        actions: Receives the time of the next decision.
        running: True if all of its pods run.
        now: Seconds since the epoch.
    """
    heard = seconds(progress.updated) if progress is not None else None
    last = f"last progress {duration(now - heard)} ago" if heard is not None else "no progress was read"
    lost = not_ready(view.pods)
    if lost:
        since = min(at for pod in view.pods if (at := not_ready_since(pod)) is not None)
        return UnresponsiveStatus(reason="NodeNotReady", since=timestamp(since), message=f"{lost}; {last}")
    begun = _begun(view)
    if not running or progress is None or heard is None or begun is None or heard < begun:
        return None  # an attempt before its first step reports its activity in notes
    expected = expected_gap(progress)
    if now < heard + expected:
        actions.requeue(heard + expected)
        if progress.seconds_left is not None:
            actions.requeue(now + max(AGE_SECONDS, progress.seconds_left / AGES))
        return None
    message = (
        f"no progress since {progress.updated}, {duration(now - heard)} ago; at its pace a line was due within "
        f"{duration(expected)}: if its node answers, kubectl logs job/{view.name} -c {container_of(view.job)} shows "
        "its activity"
    )
    return UnresponsiveStatus(reason="ProgressStale", since=timestamp(heard), message=message)


def expected_gap(progress: ProgressStatus) -> float:
    """Return the seconds within which the next progress line is due.

    >>> expected_gap(ProgressStatus(percent=10, step=10, steps=100, seconds_left=90))
    600
    >>> expected_gap(ProgressStatus(percent=10, step=10, steps=100, seconds_left=90, longest_gap_seconds=1000))
    3000
    """
    left = progress.steps - progress.step
    pace = (progress.seconds_left or 0) / left if left > 0 else 0
    least = LEAST_SECONDS if left > 0 else AT_THE_END_SECONDS
    return max(least, TIMES * progress.longest_gap_seconds, STEPS * pace)


def _begun(view: JobView) -> float | None:
    """Return the start of the container whose log is read, in seconds since the epoch; None if it does not run."""
    first = [pod for pod in view.pods if is_first(pod) and not is_over(pod)]
    status = container_status(first[-1], container_of(first[-1])) if first else None
    return seconds((((status or {}).get("state") or {}).get("running") or {}).get("startedAt"))

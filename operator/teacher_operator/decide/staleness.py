"""Trainers that run, as far as the API server knows, and from which nothing is heard. Pure."""

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
"""A trainer that says nothing for less is not stale, however fast its steps are."""

AT_THE_END_SECONDS = 3600
"""The same after the last step, when the test split is evaluated and all is published, at no known pace."""

TIMES, STEPS = 3, 10
"""Nor is one that says nothing for less than this many of its longest gaps, or of its steps."""

AGES, AGE_SECONDS = 20, 60
"""Without news, the time left is written again after this share of it, and after so many seconds at least."""


def unresponsive(
    progress: ProgressStatus | None, view: JobView, actions: Actions, *, running: bool, now: float
) -> UnresponsiveStatus | None:
    """Return why nothing is heard from the trainer of a Job, or None if it is heard from.

    Args:
        progress: How far it is, from the last line that was read.
        view: Its Job.
        actions: Collects when to look again.
        running: All of its pods run.
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
        return None  # an attempt that has not come to a step yet says in notes what it does
    expected = expected_gap(progress)
    if now < heard + expected:
        actions.requeue(heard + expected)
        if progress.seconds_left is not None:
            actions.requeue(now + max(AGE_SECONDS, progress.seconds_left / AGES))
        return None
    message = (
        f"no progress since {progress.updated}, {duration(now - heard)} ago; at its pace a line was due within "
        f"{duration(expected)}: if its node answers, kubectl logs job/{view.name} -c {container_of(view.job)} shows "
        "what it does"
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
    """When the container started whose log is read, in seconds since the epoch."""
    first = [pod for pod in view.pods if is_first(pod) and not is_over(pod)]
    status = container_status(first[-1], container_of(first[-1])) if first else None
    return seconds((((status or {}).get("state") or {}).get("running") or {}).get("startedAt"))

"""The attempts at a teacher: its pods, how they ended, and the GPU time that they took. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from teacher_operator.names import CLAIMED_GPUS, TRAINER
from teacher_operator.observe import JobView, container_status, is_first, is_over, node_of, terminated
from teacher_operator.status import ATTEMPTS, AttemptStatus, TeacherStatus, clip
from teacher_operator.times import seconds, timestamp

Body = Mapping[str, Any]

EPOCH = "1971"

LATER = "9999"
"""After every time, as texts go."""


def attempted(teacher: TeacherStatus, view: JobView | None, *, gpu_resource: str, now: float) -> TeacherStatus:
    """A teacher with the attempts that there were.

    Of a Job over several nodes the first pod stands for all: one that fails makes all begin anew. GPU time only grows:
    what an attempt has taken is added as it becomes known, so that it stays when the attempt is no longer listed.

    Args:
        teacher: What was known.
        view: Its Job, if there is one.
        gpu_resource: The resource that counts GPUs.
        now: Seconds since the epoch.
    """
    known = {attempt.pod: attempt for attempt in teacher.attempts}
    oldest = _order(teacher.attempts[0]) if len(teacher.attempts) == ATTEMPTS else None
    count, spent, there = teacher.attempt_count, 0, set()
    nodes = int(view.job["spec"].get("completions") or 1) if view is not None else 1
    for pod in view.pods if view is not None else ():
        attempt = _attempt(pod, gpus=nodes * _gpus(pod, gpu_resource), now=now)
        if attempt is None:
            continue
        there.add(attempt.pod)
        before = known.get(attempt.pod)
        if before is None:
            if oldest is not None and _order(attempt) <= oldest:
                continue  # counted before, and off the list since
            count += 1
        else:  # its resource may have another name by now
            attempt = attempt.model_copy(update={"gpu_seconds": max(before.gpu_seconds, attempt.gpu_seconds)})
        spent += attempt.gpu_seconds - (before.gpu_seconds if before is not None else 0)
        known[attempt.pod] = attempt
    for name, attempt in known.items():
        if name not in there and attempt.end_time is None:
            known[name] = attempt.model_copy(update={"end_time": timestamp(now), "reason": attempt.reason or "Gone"})
    attempts = sorted(known.values(), key=_order)[-ATTEMPTS:]
    started = next((attempt.start_time for attempt in attempts if attempt.start_time), None)
    return teacher.model_copy(
        update={
            "attempts": attempts,
            "attempt_count": count,
            "start_time": teacher.start_time or started,
            "gpu_seconds": teacher.gpu_seconds + spent,
        }
    )


def _order(attempt: AttemptStatus) -> tuple[str, str]:
    """By their start; of those of one second the one that has ended comes first, since one follows the other's end."""
    return attempt.start_time or "", attempt.end_time or LATER


def _gpus(pod: Body, resource: str) -> int:
    """How many GPUs a pod holds: of the extended resource, and by its claims."""
    amounts = [(pod["metadata"].get("annotations") or {}).get(CLAIMED_GPUS)]
    for one in pod["spec"]["containers"]:
        if one["name"] == TRAINER:
            amounts.append(((one.get("resources") or {}).get("limits") or {}).get(resource))
    return sum(int(amount) for amount in map(str, amounts) if amount.isdecimal())


def _attempt(pod: Body, *, gpus: int, now: float) -> AttemptStatus | None:
    """What a pod has taken, once its container has started; None of those that another pod stands for."""
    status = container_status(pod, TRAINER)
    if status is None or not is_first(pod):
        return None
    running, ended = (status.get("state") or {}).get("running"), terminated(pod, TRAINER)
    start = (ended or running or {}).get("startedAt")
    if start and start < EPOCH:  # a container that never started has the beginning of time
        start = None
    if not start and not is_over(pod):
        return None
    end = (ended or {}).get("finishedAt")
    span = (seconds(end) or now) - (seconds(start) or now)
    return AttemptStatus(
        pod=pod["metadata"]["name"],
        node=node_of(pod),
        start_time=start,
        end_time=end,
        exit_code=(ended or {}).get("exitCode"),
        reason=clip(pod["status"].get("reason") or (ended or {}).get("reason") or "", 512),
        gpu_seconds=max(0, int(span * gpus)) if start else 0,
    )

"""The attempts at a stage: its pods, how they ended, and the GPU time that they took. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from teacher_operator.api.names import container_of
from teacher_operator.api.status import ATTEMPTS, AttemptStatus, StageStatus, clip
from teacher_operator.api.timestamps import seconds, timestamp
from teacher_operator.decide.held_gpus import Holding, held_since, holding_of
from teacher_operator.decide.job_state import JobView
from teacher_operator.decide.pod_state import container_status, is_first, is_over, node_of, terminated

Body = Mapping[str, Any]
S = TypeVar("S", bound=StageStatus)

EPOCH = "1971"

LATER = "9999"
"""After every time, as texts go."""


def with_attempts(stage: S, view: JobView | None, *, gpu_resource: str, now: float) -> S:
    """Return a stage with its attempts, and the GPU time that all pods have taken.

    Of a Job over several nodes the first pod stands for an attempt: one that fails makes all start again. GPU time is
    that of every pod which was bound to a node, whether all of them came to run or not. It only grows: the status says
    until when it is counted, so that what was counted stays when its pod is gone.

    Args:
        stage: What was known.
        view: Its Job, if there is one.
        gpu_resource: The resource that counts GPUs.
        now: Seconds since the epoch.
    """
    pods = view.pods if view is not None else ()
    held = [holding for pod in pods if (holding := holding_of(pod, gpu_resource)) is not None and holding.gpus]
    known = {attempt.pod: attempt for attempt in stage.attempts}
    oldest = _order(stage.attempts[0]) if len(stage.attempts) == ATTEMPTS else None
    count, there = stage.attempt_count, set()
    for pod in pods:
        attempt = _attempt(pod, held, now=now)
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
        known[attempt.pod] = attempt
    for name, attempt in known.items():
        if name not in there and attempt.end_time is None:
            known[name] = attempt.model_copy(update={"end_time": timestamp(now), "reason": attempt.reason or "Gone"})
    attempts = sorted(known.values(), key=_order)[-ATTEMPTS:]
    started = next((attempt.start_time for attempt in attempts if attempt.start_time), None)
    return stage.model_copy(
        update={
            "attempts": attempts,
            "attempt_count": count,
            "start_time": stage.start_time or started,
            **_gpu_time(stage, held, now=now),
        }
    )


def _gpu_time(stage: StageStatus, held: Sequence[Holding], *, now: float) -> dict[str, Any]:
    """GPU seconds and until when they are counted: what is held after that time comes on top."""
    counted = _counted_until(stage, held)
    spent = sum(one.gpu_seconds(counted, now) for one in held)
    if not spent:
        return {}
    until = max(min(now, now if one.end is None else one.end) for one in held)
    return {
        "gpu_seconds": stage.gpu_seconds + spent,
        "gpu_seconds_until": timestamp(max(counted, until)),
    }


def _counted_until(stage: StageStatus, held: Sequence[Holding]) -> float:
    """Until when GPU seconds are counted; a status of an earlier version says it by its attempts alone."""
    known_until = seconds(stage.gpu_seconds_until)
    if known_until is not None or not stage.attempts:
        return known_until or 0.0
    last = stage.attempts[-1]
    gpus = sum(one.gpus for one in held if one.end is None)
    return seconds(last.end_time) or (seconds(last.start_time) or 0.0) + last.gpu_seconds / max(1, gpus)


def _order(attempt: AttemptStatus) -> tuple[str, str]:
    """By their start; of those of one second the one that has ended comes first, since one follows the other's end."""
    return attempt.start_time or "", attempt.end_time or LATER


def _attempt(pod: Body, held: Sequence[Holding], *, now: float) -> AttemptStatus | None:
    """An attempt, once the container of its first pod has started; None of those that another pod stands for.

    Its GPU time is that of all pods (``held``) while the first one held its own.
    """
    container = container_of(pod)
    status = container_status(pod, container)
    if status is None or not is_first(pod):
        return None
    running, ended = (status.get("state") or {}).get("running"), terminated(pod, container)
    start = (ended or running or {}).get("startedAt")
    if start and start < EPOCH:  # a container that never started has the beginning of time
        start = None
    if not start and not is_over(pod):
        return None
    end = (ended or {}).get("finishedAt")
    begin, until = held_since(pod) or now, seconds(end) or now
    return AttemptStatus(
        pod=pod["metadata"]["name"],
        node=node_of(pod),
        start_time=start,
        end_time=end,
        exit_code=(ended or {}).get("exitCode"),
        reason=clip(pod["status"].get("reason") or (ended or {}).get("reason") or "", 512),
        gpu_seconds=sum(one.gpu_seconds(begin, until) for one in held) if start else 0,
    )

"""Attempts at a stage: its pods, their ends, and their GPU time. Pure."""

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
"""Earlier start times are those of containers that never started: the kubelet reports the epoch for them."""

LATER = "9999"
"""Sorts after every timestamp, compared as text."""


def with_attempts(stage: S, view: JobView | None, *, gpu_resource: str, now: float) -> S:
    """Return a stage with its attempts and the GPU time of all its pods.

    In a Job over several nodes the first pod represents an attempt: if one pod fails, all start again. GPU time counts
    every pod that was bound to a node, even if not all of them came to run. It only grows: the status contains the time
    up to which it is counted, so the GPU time of a pod is kept after the pod is deleted.

    Args:
        stage: The last known status of the stage.
        view: Its Job, if it exists.
        gpu_resource: Name of the extended resource that counts GPUs.
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
                continue  # counted before, and dropped from the list since
            count += 1
        else:  # the name of the GPU resource may have changed since
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
    """Return changes of the GPU seconds and of the time up to which they are counted; empty if nothing was added."""
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
    """Return the time up to which GPU seconds are counted; earlier versions recorded it only in the attempts."""
    known_until = seconds(stage.gpu_seconds_until)
    if known_until is not None or not stage.attempts:
        return known_until or 0.0
    last = stage.attempts[-1]
    gpus = sum(one.gpus for one in held if one.end is None)
    return seconds(last.end_time) or (seconds(last.start_time) or 0.0) + last.gpu_seconds / max(1, gpus)


def _order(attempt: AttemptStatus) -> tuple[str, str]:
    """Return the sort key of an attempt: its start, then its end, since an attempt starts after the end of another."""
    return attempt.start_time or "", attempt.end_time or LATER


def _attempt(pod: Body, held: Sequence[Holding], *, now: float) -> AttemptStatus | None:
    """Return the attempt that a pod represents; None before its container has started, and for pods of other nodes.

    The GPU time of an attempt is that of all pods (``held``) while its first pod held GPUs.
    """
    container = container_of(pod)
    status = container_status(pod, container)
    if status is None or not is_first(pod):
        return None
    running, ended = (status.get("state") or {}).get("running"), terminated(pod, container)
    start = (ended or running or {}).get("startedAt")
    if start and start < EPOCH:  # a container that never started
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

"""The GPUs that pods hold, and since when. Pure.

A pod holds its GPUs from when the scheduler has bound it to a node, before its image is pulled, until its container
has ended: for that time they are unavailable to others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from teacher_operator.api.names import CLAIMED_GPUS, container_of
from teacher_operator.api.timestamps import seconds
from teacher_operator.decide.pod_state import container_status, is_over, node_of, terminated

Body = Mapping[str, Any]

NEVER = 366 * 24 * 3600.0
"""Seconds since the epoch: earlier times are those of a container that never started."""


@dataclass(frozen=True)
class Holding:
    """GPUs of one pod.

    Attributes:
        gpus: How many.
        start: Seconds since the epoch.
        end: The same; None while they are held.
    """

    gpus: int
    start: int
    end: int | None

    def gpu_seconds(self, begin: float, until: float) -> int:
        """GPUs times seconds between two times.

        >>> Holding(4, 100, 130).gpu_seconds(0, 1000), Holding(4, 100, None).gpu_seconds(110, 120)
        (120, 40)
        """
        end = until if self.end is None else min(self.end, until)
        return self.gpus * max(0, int(end) - max(self.start, int(begin)))


def holding_of(pod: Body, gpu_resource: str) -> Holding | None:
    """The GPUs that a pod holds or has held; None of one that was never bound to a node."""
    start = held_since(pod)
    if start is None:
        return None
    end = _ended(pod, start)
    return Holding(gpus_of(pod, gpu_resource), int(start), None if end is None else int(end))


def gpus_of(pod: Body, gpu_resource: str) -> int:
    """Return the number of GPUs of a trainer's pod: of the extended resource, and by its claims."""
    amounts = [(pod["metadata"].get("annotations") or {}).get(CLAIMED_GPUS)]
    for one in pod["spec"]["containers"]:
        if one["name"] == container_of(pod):
            amounts.append(((one.get("resources") or {}).get("limits") or {}).get(gpu_resource))
    return sum(int(amount) for amount in map(str, amounts) if amount.isdecimal())


def held_since(pod: Body) -> float | None:
    """When a pod was bound to its node, in seconds since the epoch; None if it never was.

    Where nobody says when, the start of the pod or of its container stands for it.
    """
    status = pod["status"]
    bound: Body = next((c for c in status.get("conditions") or [] if c["type"] == "PodScheduled"), {})
    state = (container_status(pod, container_of(pod)) or {}).get("state") or {}
    begun = (state.get("running") or state.get("terminated") or {}).get("startedAt")
    if not node_of(pod) and not begun:
        return None
    candidates = [
        bound.get("lastTransitionTime") if bound.get("status") == "True" else None,
        status.get("startTime"),
        begun,
    ]
    times = [at for at in map(seconds, candidates) if at is not None and at >= NEVER]
    return times[0] if times else None


def _ended(pod: Body, start: float) -> float | None:
    """When the container ended; of a pod that failed before it had one, when its conditions last changed."""
    ended = seconds((terminated(pod, container_of(pod)) or {}).get("finishedAt"))
    if ended is not None:
        return max(start, ended)
    if not is_over(pod):
        return None
    changes = (seconds(one.get("lastTransitionTime")) for one in pod["status"].get("conditions") or [])
    return max([start, *(at for at in changes if at is not None)])

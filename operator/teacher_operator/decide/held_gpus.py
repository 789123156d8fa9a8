"""GPUs that pods hold, with start and end. Pure.

A pod holds its GPUs from the time when the scheduler binds it to a node, before its image is pulled, until its
container has ended: in this time they are unavailable to other pods.
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
"""Earlier times, in seconds since the epoch, are those of a container that never started."""


@dataclass(frozen=True)
class Holding:
    """GPUs of one pod, and the time for which it holds them.

    Attributes:
        gpus: Number of GPUs.
        start: Start, in seconds since the epoch.
        end: End, in seconds since the epoch; None while they are held.
    """

    gpus: int
    start: int
    end: int | None

    def gpu_seconds(self, begin: float, until: float) -> int:
        """Return the GPU seconds between two times, in seconds since the epoch.

        >>> Holding(4, 100, 130).gpu_seconds(0, 1000), Holding(4, 100, None).gpu_seconds(110, 120)
        (120, 40)
        """
        end = until if self.end is None else min(self.end, until)
        return self.gpus * max(0, int(end) - max(self.start, int(begin)))


def holding_of(pod: Body, gpu_resource: str) -> Holding | None:
    """Return the GPUs that a pod holds or has held; None for a pod that was never bound to a node."""
    start = held_since(pod)
    if start is None:
        return None
    end = _ended(pod, start)
    return Holding(gpus_of(pod, gpu_resource), int(start), None if end is None else int(end))


def gpus_of(pod: Body, gpu_resource: str) -> int:
    """Return the number of GPUs of a trainer pod: from the extended resource, and from its resource claims."""
    amounts = [(pod["metadata"].get("annotations") or {}).get(CLAIMED_GPUS)]
    for one in pod["spec"]["containers"]:
        if one["name"] == container_of(pod):
            amounts.append(((one.get("resources") or {}).get("limits") or {}).get(gpu_resource))
    return sum(int(amount) for amount in map(str, amounts) if amount.isdecimal())


def held_since(pod: Body) -> float | None:
    """Return the time at which a pod was bound to its node, in seconds since the epoch; None if it never was.

    If the condition PodScheduled lacks the time, it is the start of the pod or of its container.
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
    """Return the end of the container; if the pod failed before it ran, the last change of a condition."""
    ended = seconds((terminated(pod, container_of(pod)) or {}).get("finishedAt"))
    if ended is not None:
        return max(start, ended)
    if not is_over(pod):
        return None
    changes = (seconds(one.get("lastTransitionTime")) for one in pod["status"].get("conditions") or [])
    return max([start, *(at for at in changes if at is not None)])

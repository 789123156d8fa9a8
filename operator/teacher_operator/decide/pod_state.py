"""Phase, node and container states of a pod, read from its status. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from teacher_operator.api.timestamps import seconds

Body = Mapping[str, Any]

POD_INDEX = "batch.kubernetes.io/job-completion-index"


def is_over(pod: Body) -> bool:
    """Return True if the pod has ended, successfully or not."""
    return pod["status"].get("phase") in {"Succeeded", "Failed"}


def is_live(pod: Body) -> bool:
    """Return True if the pod runs or will run: it has not ended and is not being deleted."""
    return not is_over(pod) and not pod["metadata"].get("deletionTimestamp")


def node_of(pod: Body) -> str:
    """Return the node that the pod is bound to; empty if none."""
    return str(pod["spec"].get("nodeName") or "")


def pod_index(pod: Body) -> str:
    """Return the completion index of a pod, which is its node rank in a Job over several nodes; "0" without one."""
    return str((pod["metadata"].get("labels") or {}).get(POD_INDEX, "0"))


def is_first(pod: Body) -> bool:
    """Return True if the pod represents all pods of its Job: its log and outcome are read."""
    return pod_index(pod) == "0"


def container_status(pod: Body, container: str) -> Body | None:
    """Return the status of a container; None before the node has reported it."""
    statuses = pod["status"].get("containerStatuses") or []
    return next((status for status in statuses if status["name"] == container), None)


def terminated(pod: Body, container: str) -> Body | None:
    """Return the terminated state of a container (exitCode, reason, message, startedAt, finishedAt), or None."""
    state = (container_status(pod, container) or {}).get("state") or {}
    ended: Body | None = state.get("terminated")
    return ended


def container_ends(pod: Body) -> list[Body]:
    """Return the terminated states of those containers of a pod that have ended: see :func:`terminated`."""
    statuses = pod["status"].get("containerStatuses") or []
    return [ended for one in statuses if (ended := (one.get("state") or {}).get("terminated"))]


def last_end(pod: Body) -> float:
    """Return the end of the last container, in seconds since the epoch; 0 if none has ended, or the time is unknown."""
    return max((seconds(ended.get("finishedAt")) or 0.0 for ended in container_ends(pod)), default=0.0)

"""Pods on lost nodes: the start of the silence, and advice for a person. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from teacher_operator.api.timestamps import duration, seconds
from teacher_operator.decide.pod_state import is_over, node_of

Body = Mapping[str, Any]

OVERDUE_SECONDS = 30
"""A pod that still exists so many seconds after its grace period is overdue: its node has not confirmed its end."""


def not_ready_since(pod: Body) -> float | None:
    """Return the time since which the node of a running pod is not ready, in seconds since the epoch; None if ready.

    The operator has no right to read nodes. The node controller marks the pods of a node that has stopped reporting:
    their condition Ready becomes False without a reason. A kubelet would set a reason, and ContainersReady to False.
    """
    status = pod["status"]
    conditions = {one["type"]: one for one in status.get("conditions") or []}
    ready, containers = conditions.get("Ready") or {}, conditions.get("ContainersReady") or {}
    marked = ready.get("status") == "False" and not ready.get("reason") and containers.get("status") == "True"
    if status.get("phase") != "Running" or not (marked or status.get("reason") == "NodeLost"):
        return None
    return seconds(ready.get("lastTransitionTime"))


def not_ready(pods: Iterable[Body]) -> str:
    """Return a sentence about the first node that is not ready, of the nodes of these pods; empty if all are ready."""
    for pod in pods:
        if not_ready_since(pod) is not None:
            node = node_of(pod)
            since = next(one for one in pod["status"]["conditions"] if one["type"] == "Ready")["lastTransitionTime"]
            return f"node {node} is not ready since {since}"
    return ""


def being_stopped(pod: Body, *, now: float) -> str:
    """Return a sentence about a pod that is being deleted; once it is overdue, with advice."""
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    node = node_of(pod)
    message = f"pod {name} on node {node} is being stopped" if node else f"pod {name} is being stopped"
    lost = not_ready([pod])
    if lost:
        message += f"; {lost}"
    overdue = now - (seconds(pod["metadata"].get("deletionTimestamp")) or now)
    if overdue > OVERDUE_SECONDS:
        message += (
            f"; the node has not confirmed it for {duration(overdue)}, and until then no other pod is created, since "
            f"two would write to one run. If the node is lost for good, run: kubectl delete node {node}; or only: "
            f"kubectl delete pod {name} --namespace {namespace} --force"
        )
    return message


def deleted_by_force(pod: Body, *, now: float) -> bool:
    """Return True if somebody has deleted the pod by force, but it still exists because of its Job's finalizer.

    With podReplacementPolicy Failed a Job waits for a final phase, which a lost node never reports. The pod is only
    removed when the Job itself is deleted.
    """
    metadata = pod["metadata"]
    deleted = seconds(metadata.get("deletionTimestamp"))
    if deleted is None or metadata.get("deletionGracePeriodSeconds") != 0 or is_over(pod):
        return False
    return now >= deleted + OVERDUE_SECONDS

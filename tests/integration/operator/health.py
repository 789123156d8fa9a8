"""How others read the health of an object from its conditions."""

from __future__ import annotations

from typing import Any

from world import condition


def kstatus(body: dict[str, Any]) -> str:
    """What cli-utils' kstatus computes for any custom resource: Flux, kpt and kubectl-based tools wait for Current.

    https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md
    """
    status = body.get("status") or {}
    if body["metadata"].get("deletionTimestamp"):
        return "Terminating"
    if status.get("observedGeneration") != body["metadata"]["generation"]:
        return "InProgress"
    if condition(status, "Reconciling").get("status") == "True":
        return "InProgress"
    if condition(status, "Stalled").get("status") == "True":
        return "Failed"
    return "Current"

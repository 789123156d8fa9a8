"""How others read the health of an object from its conditions."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from lupa.lua51 import LuaRuntime
from world import condition

ARGO_CD = Path(__file__).parents[3] / "config" / "argocd" / "health.lua"


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


def argo_cd(body: dict[str, Any]) -> str:
    """What the script that is shipped for Argo CD says."""
    lua = LuaRuntime(unpack_returned_tuples=True)
    lua.globals().obj = lua.table_from(body, recursive=True)
    return str(lua.execute(_script())["status"])


@functools.cache
def _script() -> str:
    return ARGO_CD.read_text()

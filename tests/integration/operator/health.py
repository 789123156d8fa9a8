"""How other tools read the health of an object: kstatus, by the rules of cli-utils, and Argo CD, by our script."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lupa.lua51 import LuaRuntime

ARGO_CD = Path(__file__).parents[3] / "config" / "argocd" / "health.lua"

READ = ("type", "status", "reason", "message")
"""Fields of a condition that kstatus reads."""


class UnreadableError(ValueError):
    """The object has something of another type than kstatus reads there: it returns an error and no answer."""


def kstatus(body: Mapping[str, Any]) -> str:
    """Return what kstatus computes of a custom resource: Flux, Helm 4 and kpt wait for Current, and stop at Failed.

    These are the rules of ``status.Compute`` of https://github.com/kubernetes-sigs/cli-utils (``pkg/kstatus/status``),
    in their order, for kinds that have no rules of their own there. They differ from what its README suggests: an
    object without ``status.observedGeneration`` passes that check, and one without conditions is Current.

    Raises:
        UnreadableError: The package returns an error.
    """
    if _at(body, "metadata", "deletionTimestamp", str):
        return "Terminating"
    generation = _at(body, "metadata", "generation", int)
    if generation is not None:
        observed = _at(body, "status", "observedGeneration", int)
        if observed is not None and observed != generation:
            return "InProgress"
    conditions = list(_conditions(body))
    for one in conditions:  # the first that is true decides
        if one["status"] == "True" and one["type"] in ("Reconciling", "Stalled"):
            return "InProgress" if one["type"] == "Reconciling" else "Failed"
    for one in conditions:
        if one["type"] == "Ready" and one["status"] in ("True", "False", "Unknown"):
            return "Current" if one["status"] == "True" else "InProgress"
    return "Current"


def _at(body: Mapping[str, Any], part: str, name: str, kind: type) -> Any:
    """A field of ``metadata`` or ``status``; None if it is absent, or the part is absent or null."""
    inside = body.get(part)
    if inside is None:
        return None
    if not isinstance(inside, Mapping):
        raise UnreadableError(f"{part} is a {type(inside).__name__}")
    if name not in inside:
        return None
    value = inside[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UnreadableError(f"{part}.{name} is a {type(value).__name__}")
    return value


def _conditions(body: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """All conditions; null stands for what is absent."""
    status = body.get("status")
    if status is not None and not isinstance(status, Mapping):
        raise UnreadableError("status is no object")
    conditions = (status or {}).get("conditions")
    if conditions is not None and not isinstance(conditions, list):
        raise UnreadableError("status.conditions is not a list")
    for one in conditions or ():
        if one is not None and not isinstance(one, Mapping):
            raise UnreadableError("a condition is no object")
        values = {name: (one or {}).get(name) for name in READ}
        if not all(value is None or isinstance(value, str) for value in values.values()):
            raise UnreadableError("a field of a condition is no text")
        yield {name: value or "" for name, value in values.items()}


def argo_cd(body: dict[str, Any]) -> str:
    """What the script that is shipped for Argo CD says."""
    lua = LuaRuntime(unpack_returned_tuples=True)
    lua.globals().obj = lua.table_from(body, recursive=True)
    return str(lua.execute(_script())["status"])


@functools.cache
def _script() -> str:
    return ARGO_CD.read_text()

"""Groups of metrics: namespace, and the value of one label chosen by the installation. Their number is bounded."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

NAMESPACE = "run_namespace"
"""Name of the metric label. Prometheus sets `namespace` itself, to that of the operator."""

LABEL_VALUES = 50
"""Maximum values of the chosen label with their own series per namespace: users choose the values."""

OTHER = "other"
"""Value of the label for all further values."""

KEEP_SECONDS = 3600.0
"""Seconds that the series of a namespace outlive its last object, so that Prometheus reads the last values."""


class Group(NamedTuple):
    """Values of the labels of a metric: namespace, and the chosen label (empty if an object has none)."""

    namespace: str
    value: str = ""


def metric_label(key: str) -> str:
    """Return the name of the metric label for the label of an object, as kube-state-metrics does: label_cost_center."""
    return "label_" + re.sub(r"[^a-zA-Z0-9_]", "_", key)


class Groups:
    """Groups with series.

    Args:
        label: Label of the objects whose value becomes a label of the metrics; empty for none.
    """

    def __init__(self, label: str = "") -> None:
        self.label = label
        self.names: tuple[str, ...] = (NAMESPACE, metric_label(label)) if label else (NAMESPACE,)
        self._last: dict[Group, float] = {}
        """Time when a group last had an object, by the monotonic clock."""

    def value_of(self, body: Mapping[str, Any]) -> str:
        """Return the value of the chosen label on an object."""
        return str((body["metadata"].get("labels") or {}).get(self.label, "")) if self.label else ""

    def group(self, namespace: str, value: str) -> Group:
        """Return the group of an object, and record that the group is in use."""
        found = Group(namespace, value if self.label else "")
        if found not in self._last:
            known = sum(one.namespace == namespace for one in self._last)
            if value and known >= LABEL_VALUES:
                found = Group(namespace, OTHER)
        self._last[found] = time.monotonic()
        return found

    def labels(self, group: Group, **more: str) -> dict[str, str]:
        """Return the labels of a series, by name."""
        return dict(zip(self.names, group, strict=False)) | more

    def has(self, namespace: str) -> bool:
        """Return True if a group of a namespace exists."""
        return any(group.namespace == namespace for group in self._last)

    def gone(self) -> Iterable[Group]:
        """Return the groups without an object for KEEP_SECONDS, and forget them."""
        limit = time.monotonic() - KEEP_SECONDS
        gone = [group for group, at in self._last.items() if at < limit]
        for group in gone:
            del self._last[group]
        return gone

"""Actions of a decision: changes of children, and data to read before the next decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from teacher_operator.decide.failed_pods import root_cause_pod


class Lookup(NamedTuple):
    """Data that no watch shows and that is read on demand."""

    kind: Literal["log", "pods", "Job", "Pod"]
    """``log``: the log of a pod; ``pods``: the current pods of a Job; ``Job`` or ``Pod``: the events of one."""
    name: str
    container: str = ""


@dataclass
class Actions:
    """Changes of children, data to read before deciding again, and the time of the next decision.

    Attributes:
        apply: Complete manifests of children to create, in order.
        patch: Names of Jobs with their merge patches.
        replace: New manifests of existing Jobs, which are deleted once the API server accepts the new one in a dry run.
        delete: Names of Jobs to delete.
        lookups: Data to read before deciding again.
        requeue_after_write: Decide again once the status is written: it names a Job that may only be created then.
        requeue_at: Time of the next decision, in seconds since the epoch; None: when an object changes.
        retry: Retry later what the API server has refused.
    """

    apply: list[dict[str, Any]] = field(default_factory=list)
    patch: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    replace: list[dict[str, Any]] = field(default_factory=list)
    delete: list[str] = field(default_factory=list)
    lookups: list[Lookup] = field(default_factory=list)
    requeue_after_write: bool = False
    requeue_at: float | None = None
    retry: bool = False

    @property
    def empty(self) -> bool:
        """True if no child changes."""
        return not (self.apply or self.patch or self.replace or self.delete)

    def requeue(self, at: float) -> None:
        """Decide again at a time in seconds since the epoch, or earlier."""
        self.requeue_at = at if self.requeue_at is None else min(at, self.requeue_at)

    def read_events(self, wanted: tuple[str, str] | None) -> None:
        """Request the events of a Job or Pod, given as kind and name."""
        if wanted is not None:
            kind, name = wanted
            self.lookups.append(Lookup("Job" if kind == "Job" else "Pod", name))

    def read_pods(self, job: str) -> None:
        """Request the pods of a Job that has ended: the watches may show an older state of them."""
        self.lookups.append(Lookup("pods", job))

    def read_log(self, pods: Sequence[Mapping[str, Any]], container: str) -> bool:
        """Request the log of the failed pod with the root cause; return False if no pod has failed."""
        root_cause = root_cause_pod(pods)
        if root_cause is not None:
            self.lookups.append(Lookup("log", root_cause["metadata"]["name"], container))
        return root_cause is not None

"""What a decision asks for beside the status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from teacher_operator.decide.failed_pods import root_cause_pod


class Lookup(NamedTuple):
    """Something that is only read when it is needed."""

    kind: Literal["log", "pods", "Job", "Pod"]
    """The log of a pod, the pods of a Job as they are now, or the events of a Job or Pod."""
    name: str
    container: str = ""


@dataclass
class Actions:
    """Children to apply, Jobs to patch and to delete, things to look at before deciding anew, and when to come back.

    Attributes:
        apply: Whole children, in order.
        patch: Names of Jobs with merge patches.
        replace: Jobs that are to be made anew, once it is known that the API server takes them so.
        delete: Names of Jobs.
        lookups: What would tell more.
        requeue_after_write: Decide again once the status is written: it names a Job that may only be created then.
        requeue_at: Seconds since the epoch.
        retry: What was refused may be taken later.
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
        """Nothing is to be changed."""
        return not (self.apply or self.patch or self.replace or self.delete)

    def requeue(self, at: float) -> None:
        """Come back at a time, or earlier."""
        self.requeue_at = at if self.requeue_at is None else min(at, self.requeue_at)

    def read_events(self, wanted: tuple[str, str] | None) -> None:
        """Read the events of a Job or Pod."""
        if wanted is not None:
            kind, name = wanted
            self.lookups.append(Lookup("Job" if kind == "Job" else "Pod", name))

    def read_pods(self, job: str) -> None:
        """Read the pods of a Job that has ended: what watches show of them may be older than its end."""
        self.lookups.append(Lookup("pods", job))

    def read_log(self, pods: Sequence[Mapping[str, Any]], container: str) -> bool:
        """Read the log of the failed pod that tells most; False if there is none."""
        root_cause = root_cause_pod(pods)
        if root_cause is not None:
            self.lookups.append(Lookup("log", root_cause["metadata"]["name"], container))
        return root_cause is not None

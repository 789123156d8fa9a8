"""What a decision asks for beside the status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from teacher_operator.decide.failed_pods import telling_pod


class Look(NamedTuple):
    """Something that is only read when it is needed."""

    kind: Literal["log", "pods", "Job", "Pod"]
    """The log of a pod, the pods of a Job as they are now, or the events of a Job or Pod."""
    name: str
    container: str = ""


@dataclass
class Todo:
    """Children to apply, Jobs to patch and to delete, things to look at before deciding anew, and when to come back.

    Attributes:
        apply: Whole children, in order.
        patch: Names of Jobs with merge patches.
        replace: Jobs that are to be made anew, once it is known that the API server takes them so.
        delete: Names of Jobs.
        looks: What would tell more.
        announced: The status names a Job that is only to be made once that status is written: decide again then.
        again_at: Seconds since the epoch.
        retry: What was refused may be taken later.
    """

    apply: list[dict[str, Any]] = field(default_factory=list)
    patch: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    replace: list[dict[str, Any]] = field(default_factory=list)
    delete: list[str] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    announced: bool = False
    again_at: float | None = None
    retry: bool = False

    @property
    def empty(self) -> bool:
        """Nothing is to be changed."""
        return not (self.apply or self.patch or self.replace or self.delete)

    def again(self, at: float) -> None:
        """Come back at a time, or earlier."""
        self.again_at = at if self.again_at is None else min(at, self.again_at)

    def look_at(self, wanted: tuple[str, str] | None) -> None:
        """Read the events of a Job or Pod."""
        if wanted is not None:
            kind, name = wanted
            self.looks.append(Look("Job" if kind == "Job" else "Pod", name))

    def look_at_pods(self, job: str) -> None:
        """Read the pods of a Job that has ended: what watches show of them may be older than its end."""
        self.looks.append(Look("pods", job))

    def look_at_log(self, pods: Sequence[Mapping[str, Any]], container: str) -> bool:
        """Read the log of the failed pod that tells most; False if there is none."""
        telling = telling_pod(pods)
        if telling is not None:
            self.looks.append(Look("log", telling["metadata"]["name"], container))
        return telling is not None

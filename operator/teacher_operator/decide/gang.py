"""Several nodes start together or not at all: pods that hold GPUs while others cannot start give them back. Pure.

Without a scheduler that places a gang as a whole, two runs of two nodes may each hold one of the two GPUs that both
need, and wait for each other without end. So a Job some of whose pods have a node, while others find none or cannot be
made, is suspended after a bounded time, and let run again after a pause. Both times are drawn from the Job's uid, so
that two Jobs differ, and the pause doubles with every round: in the end one of them comes when the others are away.

All that is remembered stands in one annotation of the Job, written with the suspension in one request. A Job in a queue
of Kueue is never touched: Kueue places all pods or none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from teacher_operator.api.names import GANG, SUSPENDED
from teacher_operator.api.timestamps import seconds, timestamp
from teacher_operator.decide.held_gpus import gpus_of, held_since
from teacher_operator.decide.job_patches import is_queued
from teacher_operator.decide.job_state import PULL_ERRORS, START_ERRORS, JobView
from teacher_operator.decide.pod_state import container_status, is_live, is_over, last_end, node_of

Body = Mapping[str, Any]
Manifest = dict[str, Any]

LONGEST_PAUSE = 12
"""Times the timeout; the first pause is as long as the timeout. Of either, a Job waits 50 to 150 percent."""

NODES_NAMED = 4
"""Of the nodes that pods hold, as many are named in a message."""


class Rounds(BaseModel):
    """State of a Job that could not start as a whole, kept until all of its pods run."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    count: int = Field(default=0, ge=0, le=10_000)
    """How often it gave its GPUs back."""
    since: str = ""
    """Since when it waits, over all rounds."""
    again: str = ""
    """When it is tried again."""

    @classmethod
    def of(cls, job: Body) -> Rounds:
        """Read the annotation of a Job; one that was broken by hand counts as absent."""
        text = (job["metadata"].get("annotations") or {}).get(GANG)
        try:
            rounds = cls.model_validate_json(text) if text else cls()
            _ = seconds(rounds.since), seconds(rounds.again)
        except (ValidationError, ValueError):
            return cls()
        return rounds


@dataclass(frozen=True)
class PartialStart:
    """A Job some of whose pods hold a node while others cannot start.

    Attributes:
        holders: The pods with a node.
        wanted: Number of pods that must run together.
        since: Seconds since the epoch.
    """

    holders: Sequence[Body]
    wanted: int
    since: float

    def message(self, gpu_resource: str, until: float) -> str:
        """Which GPUs are held, by how many pods and until when."""
        nodes = list(dict.fromkeys(map(node_of, self.holders)))
        more = f" and {len(nodes) - NODES_NAMED} more" if len(nodes) > NODES_NAMED else ""
        count, total = len(self.holders), sum(gpus_of(pod, gpu_resource) for pod in self.holders)
        held = (
            f"{count} of {self.wanted} pods {_plural(count, 'hold', 'holds')} {total} {_plural(total, 'GPUs', 'GPU')}"
        )
        where = f"{_plural(len(nodes), 'nodes', 'node')} {', '.join(nodes[:NODES_NAMED])}{more}"
        return f"{held} on {where}; released at {timestamp(until)} if not all have started"


def paused_until(view: JobView) -> float | None:
    """When a Job that gave its GPUs back is tried again, in seconds since the epoch; None if it is not paused.

    One that somebody has let run meanwhile is let be.
    """
    if not view.suspended or SUSPENDED not in (view.job["metadata"].get("annotations") or {}):
        return None
    return seconds(Rounds.of(view.job).again)


def paused_message(view: JobView) -> str:
    """Why no pod of a paused Job runs, and what still holds GPUs."""
    rounds = Rounds.of(view.job)
    message = (
        f"not all of its {_wanted(view)} pods could start, so those that held GPUs gave them back (round "
        f"{rounds.count}); all are tried again at {rounds.again}"
    )
    going = [pod for pod in view.pods if not is_over(pod) and node_of(pod)]
    if going:
        nodes = sorted(set(map(node_of, going)))
        message += f"; {len(going)} still to stop, on {', '.join(nodes[:NODES_NAMED])}"
    return message


def partial_start(view: JobView, container: str) -> PartialStart | None:
    """Return the GPUs that a Job holds in vain; None if none, or if all of its pods have a node and start.

    Pods that pull their image are let be: to begin again would not help them. Those whose image or container cannot be
    made are waited for as those without a node.
    """
    if _wanted(view) < 2 or view.suspended or is_queued(view.job):
        return None
    live = [pod for pod in view.pods if is_live(pod)]
    holders = [pod for pod in live if node_of(pod)]
    done = sum(pod["status"].get("phase") == "Succeeded" for pod in view.pods)
    stuck = [pod for pod in live if not node_of(pod) or _cannot_start(pod, container)]
    if not holders or not (stuck or len(live) + done < _wanted(view)):
        return None
    # Of pods that ran together and lost one, the wait begins with that loss.
    begun = [min(held_since(pod) or 0.0 for pod in holders), view.started or 0.0]
    begun += [min(map(_created, stuck))] if stuck else []
    begun += [_over_since(pod) for pod in view.pods if not is_live(pod)]
    return PartialStart(holders, _wanted(view), max(begun))


def release_at(part: PartialStart, view: JobView, *, timeout: float) -> float:
    """When GPUs that are held in vain are given back, in seconds since the epoch.

    Up to half as late again as the timeout says: of two that wait for each other one gives way, and the other starts.
    """
    return part.since + timeout * (1 + _fraction(view.job, "release", Rounds.of(view.job).count) / 2)


def release(view: JobView, *, timeout: float, since: float, now: float) -> Manifest:
    """The merge patch that takes the pods of a Job away, and remembers since when it waits and when it is tried again.

    The Job controller does not count pods that it takes away by itself as failures: no retry is spent.
    """
    before = Rounds.of(view.job)
    longest = timeout * min(LONGEST_PAUSE, 2 ** min(before.count, 20))
    pause = longest * (0.5 + _fraction(view.job, "pause", before.count))
    rounds = Rounds(count=before.count + 1, since=before.since or timestamp(since), again=timestamp(now + pause))
    annotations = {SUSPENDED: "true", GANG: rounds.model_dump_json()}
    return {"metadata": {"annotations": annotations}, "spec": {"suspend": True}}


def started_patch(view: JobView) -> Manifest | None:
    """The merge patch that forgets the rounds of a Job all of whose pods run; None if there were none."""
    if GANG not in (view.job["metadata"].get("annotations") or {}):
        return None
    return {"metadata": {"annotations": {GANG: None}}, "spec": {}}


def suspended_patch(view: JobView) -> Manifest | None:
    """Return the merge patch of a Job that its user suspends, which resets its wait; None if it has not waited."""
    rounds = Rounds.of(view.job)
    if not rounds.since:
        return None
    text = rounds.model_copy(update={"since": ""}).model_dump_json()
    return {"metadata": {"annotations": {GANG: text}}, "spec": {}}


def _wanted(view: JobView) -> int:
    """Pods that run at a time; those of a Job for one node replace each other."""
    indexed = view.job["spec"].get("completionMode") == "Indexed"
    return int(view.job["spec"].get("completions") or 1) if indexed else 1


def _cannot_start(pod: Body, container: str) -> bool:
    state = (container_status(pod, container) or {}).get("state") or {}
    return (state.get("waiting") or {}).get("reason") in PULL_ERRORS | START_ERRORS


def _plural(count: int, many: str, one: str) -> str:
    return one if count == 1 else many


def _created(pod: Body) -> float:
    return seconds(pod["metadata"].get("creationTimestamp")) or 0.0


def _over_since(pod: Body) -> float:
    """Return when a pod ended, or when one that is being stopped must have ended, in seconds since the epoch."""
    stopped = 0.0 if is_over(pod) else seconds(pod["metadata"].get("deletionTimestamp")) or 0.0
    return max(last_end(pod), stopped)


def _fraction(job: Body, what: str, count: int) -> float:
    """A number in [0, 1) that is the same whenever it is drawn: deciding depends on nothing but what is."""
    text = f"{job['metadata'].get('uid')} {what} {count}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2.0**48

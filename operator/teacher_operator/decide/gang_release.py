"""Start of several nodes together or not at all: pods release their GPUs if others cannot start. Pure.

Without a scheduler that places a gang as a whole, two runs of two nodes may each hold one of the two GPUs that both
need, and wait for each other without end. So a Job is suspended after a timeout if some of its pods have a node while
others have none or cannot be created; it is resumed after a pause. Both times depend on a hash of the Job's uid, so
they differ between Jobs, and the pause doubles with every round: in the end one Job starts while the others pause.

The state is kept in one annotation of the Job, which is written in the same request as the suspension. A Job in a Kueue
queue is never suspended here: Kueue admits all pods or none.
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
"""Longest pause, as a multiple of the timeout; the first pause is one timeout. Both vary by 50 percent per Job."""

NODES_NAMED = 4
"""Maximum number of nodes that a message names."""


class Rounds(BaseModel):
    """State of a Job whose pods could not all start, kept until all of them run."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    count: int = Field(default=0, ge=0, le=10_000)
    """Number of times that it released its GPUs."""
    since: str = ""
    """Start of the wait over all rounds, as a timestamp."""
    again: str = ""
    """Time at which the Job is resumed, as a timestamp."""

    @classmethod
    def of(cls, job: Body) -> Rounds:
        """Read the annotation of a Job; an invalid one, as after an edit by hand, counts as absent."""
        text = (job["metadata"].get("annotations") or {}).get(GANG)
        try:
            rounds = cls.model_validate_json(text) if text else cls()
            _ = seconds(rounds.since), seconds(rounds.again)
        except (ValidationError, ValueError):
            return cls()
        return rounds


@dataclass(frozen=True)
class PartialStart:
    """Job of which some pods have a node while others cannot start.

    Attributes:
        holders: Pods with a node, which hold GPUs.
        wanted: Number of pods that must run together.
        since: Start of this state, in seconds since the epoch.
    """

    holders: Sequence[Body]
    wanted: int
    since: float

    def message(self, gpu_resource: str, until: float) -> str:
        """Return a sentence with the GPUs that are held, by how many pods, on which nodes and until when."""
        nodes = list(dict.fromkeys(map(node_of, self.holders)))
        more = f" and {len(nodes) - NODES_NAMED} more" if len(nodes) > NODES_NAMED else ""
        count, total = len(self.holders), sum(gpus_of(pod, gpu_resource) for pod in self.holders)
        held = (
            f"{count} of {self.wanted} pods {_plural(count, 'hold', 'holds')} {total} {_plural(total, 'GPUs', 'GPU')}"
        )
        where = f"{_plural(len(nodes), 'nodes', 'node')} {', '.join(nodes[:NODES_NAMED])}{more}"
        return f"{held} on {where}; released at {timestamp(until)} if not all have started"


def paused_until(view: JobView) -> float | None:
    """Return the end of the pause after a release of GPUs, in seconds since the epoch; None if the Job is not paused.

    A Job that somebody has resumed in the meantime is not paused.
    """
    if not view.suspended or SUSPENDED not in (view.job["metadata"].get("annotations") or {}):
        return None
    return seconds(Rounds.of(view.job).again)


def paused_message(view: JobView) -> str:
    """Return a sentence on the reason of a pause, with the pods that still hold GPUs."""
    rounds = Rounds.of(view.job)
    message = (
        f"not all of its {_wanted(view)} pods could start, so those that held GPUs released them (round "
        f"{rounds.count}); all are started again at {rounds.again}"
    )
    going = [pod for pod in view.pods if not is_over(pod) and node_of(pod)]
    if going:
        nodes = sorted(set(map(node_of, going)))
        message += f"; {len(going)} still to stop, on {', '.join(nodes[:NODES_NAMED])}"
    return message


def partial_start(view: JobView, container: str) -> PartialStart | None:
    """Return the partial start of a Job; None if no pod holds GPUs, or if all of its pods have a node and start.

    Pods that pull their image count as starting: a restart would not help them. Pods whose image cannot be pulled or
    whose container cannot be created count like pods without a node.
    """
    if _wanted(view) < 2 or view.suspended or is_queued(view.job):
        return None
    live = [pod for pod in view.pods if is_live(pod)]
    holders = [pod for pod in live if node_of(pod)]
    done = sum(pod["status"].get("phase") == "Succeeded" for pod in view.pods)
    stuck = [pod for pod in live if not node_of(pod) or _cannot_start(pod, container)]
    if not holders or not (stuck or len(live) + done < _wanted(view)):
        return None
    # If all pods ran and one was lost, the wait begins with that loss.
    begun = [min(held_since(pod) or 0.0 for pod in holders), view.started or 0.0]
    begun += [min(map(_created, stuck))] if stuck else []
    begun += [_over_since(pod) for pod in view.pods if not is_live(pod)]
    return PartialStart(holders, _wanted(view), max(begun))


def release_at(part: PartialStart, view: JobView, *, timeout: float) -> float:
    """Return the time at which a partial start releases its GPUs, in seconds since the epoch.

    It is 1 to 1.5 timeouts after the start of the wait, by the hash of the Job's uid: of two Jobs that wait for each
    other, one releases its GPUs first, and the other starts.
    """
    return part.since + timeout * (1 + _fraction(view.job, "release", Rounds.of(view.job).count) / 2)


def release(view: JobView, *, timeout: float, since: float, now: float) -> Manifest:
    """Return the merge patch that suspends a Job, and records the start of its wait and the end of its pause.

    The Job controller does not count pods that it deletes itself as failures: no retry is used.
    """
    before = Rounds.of(view.job)
    longest = timeout * min(LONGEST_PAUSE, 2 ** min(before.count, 20))
    pause = longest * (0.5 + _fraction(view.job, "pause", before.count))
    rounds = Rounds(count=before.count + 1, since=before.since or timestamp(since), again=timestamp(now + pause))
    annotations = {SUSPENDED: "true", GANG: rounds.model_dump_json()}
    return {"metadata": {"annotations": annotations}, "spec": {"suspend": True}}


def started_patch(view: JobView) -> Manifest | None:
    """Return the merge patch that removes the rounds of a Job once all of its pods run; None if it had none."""
    if GANG not in (view.job["metadata"].get("annotations") or {}):
        return None
    return {"metadata": {"annotations": {GANG: None}}, "spec": {}}


def suspended_patch(view: JobView) -> Manifest | None:
    """Return the merge patch that resets the wait of a Job when its user suspends it; None if it has not waited."""
    rounds = Rounds.of(view.job)
    if not rounds.since:
        return None
    text = rounds.model_copy(update={"since": ""}).model_dump_json()
    return {"metadata": {"annotations": {GANG: text}}, "spec": {}}


def _wanted(view: JobView) -> int:
    """Return the number of pods that run at the same time: 1 for a Job on one node."""
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
    """Return a number in [0, 1) from a hash of the arguments: decisions stay free of randomness."""
    text = f"{job['metadata'].get('uid')} {what} {count}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2.0**48

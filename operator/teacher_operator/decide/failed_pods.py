"""Failed pods: which of them tells why, whether the next attempt would fail too, whether they were stopped. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import NEVER_RETRIED, InterruptedTrainingError, TeacherError
from engine.results.outcome import parse_outcome
from teacher_operator.decide.job_state import DISRUPTED
from teacher_operator.decide.pod_state import container_ends, last_end, pod_index

Body = Mapping[str, Any]

PEER_LOST = TeacherError.exit_code
"""How a process ends that another one of its run is lost to: it knows nothing of why."""

SAME_CAUSE_SECONDS = 120
"""Pods of several nodes that end within this time of each other end for the same cause."""


def root_cause_pod(pods: Sequence[Body]) -> Body | None:
    """The failed pod that tells most of why: one that would fail again, else the newest.

    Of the pods of several nodes, those that were ended with the one that failed know nothing: their process was left
    alone, or their Job deletes them.
    """
    failed = [pod for pod in pods if pod["status"].get("phase") == "Failed"]
    decisive = [pod for pod in failed if would_fail_again(pod)]
    if decisive or not failed:
        return decisive[-1] if decisive else None
    together = [*_ended_with(failed[-1], failed), failed[-1]]
    by_themselves = [pod for pod in together if not pod["metadata"].get("deletionTimestamp")] or together
    causes = [pod for pod in by_themselves if _exit_codes(pod) - {PEER_LOST}]
    return (causes or by_themselves)[-1]


def would_fail_again(pod: Body) -> bool:
    """The pod left an outcome that says so; an exit code alone says nothing, since a container runtime has its own."""
    outcomes = (parse_outcome(state.get("message") or "") for state in container_ends(pod))
    return any(outcome is not None and outcome.exit_code in NEVER_RETRIED for outcome in outcomes)


def ends_run(pod: Body) -> bool:
    """The pod would fail again, and its Job counts the failure: no other attempt must be made.

    A disruption, or an exit after a checkpoint, is not counted: there the next attempt says the same once more.
    """
    return (
        would_fail_again(pod) and not is_disrupted(pod) and InterruptedTrainingError.exit_code not in _exit_codes(pod)
    )


def is_disrupted(pod: Body) -> bool:
    """Something other than the run stops the pod, or has stopped it: a preemption, a drain, an eviction."""
    conditions = pod["status"].get("conditions") or []
    return any(one["type"] == DISRUPTED and one["status"] == "True" for one in conditions)


def were_stopped(pods: Sequence[Body]) -> bool:
    """The last attempt was being deleted, as its run was suspended or a person stopped it, before it failed.

    Such a stop may end a container that only just starts with any code. Pods of several nodes are one attempt; those
    that their Job deletes since another one failed do not hide that one.
    """
    failed = [pod for pod in pods if pod["status"].get("phase") == "Failed"]
    if not failed:
        return False
    last = [failed[-1], *_ended_with(failed[-1], failed)]
    return all(pod["metadata"].get("deletionTimestamp") for pod in last)


def _ended_with(last: Body, failed: Sequence[Body]) -> list[Body]:
    """The failed pods of other nodes that ended together with one."""
    return [
        pod
        for pod in failed
        if pod_index(pod) != pod_index(last) and abs(last_end(pod) - last_end(last)) < SAME_CAUSE_SECONDS
    ]


def _exit_codes(pod: Body) -> set[int]:
    return {int(state["exitCode"]) for state in container_ends(pod) if "exitCode" in state}

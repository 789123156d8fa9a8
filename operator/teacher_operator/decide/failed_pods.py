"""Failed pods: the one with the root cause, and whether a retry would fail too or the pods were stopped. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import NEVER_RETRIED, InterruptedTrainingError, TeacherError
from engine.results.outcome import parse_outcome
from teacher_operator.decide.job_state import DISRUPTED
from teacher_operator.decide.pod_state import container_ends, last_end, pod_index

Body = Mapping[str, Any]

PEER_LOST = TeacherError.exit_code
"""Exit code of a process that lost its connection to another process of the run; it does not know the cause."""

SAME_CAUSE_SECONDS = 120
"""Pods of several nodes that end within so many seconds of each other are taken to have the same cause."""


def root_cause_pod(pods: Sequence[Body]) -> Body | None:
    """Return the failed pod with the root cause: one that would fail again, else the newest; None without any.

    With several nodes, pods that ended because another one failed do not show the cause: their process lost its peer,
    or the Job controller deleted them.
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
    """Return True if the outcome of a pod shows that a retry would fail too.

    An exit code alone does not show it, since container runtimes use the same codes.
    """
    outcomes = (parse_outcome(state.get("message") or "") for state in container_ends(pod))
    return any(outcome is not None and outcome.exit_code in NEVER_RETRIED for outcome in outcomes)


def ends_run(pod: Body) -> bool:
    """Return True if the pod would fail again, and its Job counts the failure: it must not be retried.

    A Job does not count a disruption or an exit after a checkpoint; then the next attempt reports the same failure.
    """
    return (
        would_fail_again(pod) and not is_disrupted(pod) and InterruptedTrainingError.exit_code not in _exit_codes(pod)
    )


def is_disrupted(pod: Body) -> bool:
    """Return True if the cluster stops the pod or has stopped it: by a preemption, a drain or an eviction."""
    conditions = pod["status"].get("conditions") or []
    return any(one["type"] == DISRUPTED and one["status"] == "True" for one in conditions)


def were_stopped(pods: Sequence[Body]) -> bool:
    """Return True if the pods of the last attempt failed because they were deleted: by a suspension, or by a person.

    A container that is stopped while it starts may end with any exit code. The pods of several nodes are one attempt:
    if only some were deleted, the others have failed by themselves.
    """
    failed = [pod for pod in pods if pod["status"].get("phase") == "Failed"]
    if not failed:
        return False
    last = [failed[-1], *_ended_with(failed[-1], failed)]
    return all(pod["metadata"].get("deletionTimestamp") for pod in last)


def _ended_with(last: Body, failed: Sequence[Body]) -> list[Body]:
    """Return the failed pods of other nodes that ended at about the same time as ``last``."""
    return [
        pod
        for pod in failed
        if pod_index(pod) != pod_index(last) and abs(last_end(pod) - last_end(last)) < SAME_CAUSE_SECONDS
    ]


def _exit_codes(pod: Body) -> set[int]:
    return {int(state["exitCode"]) for state in container_ends(pod) if "exitCode" in state}

"""Reason and message, with the remedy, of the failure of a pod or a Job. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import EXIT_ERRORS, InterruptedTrainingError, NotBetterThanBaseError
from engine.results.outcome import Outcome, parse_outcome
from teacher_operator.api.names import INSPECT
from teacher_operator.api.status import LOG_LINES, MESSAGE_MAX, REASON, FailureStatus, clip
from teacher_operator.decide.eviction_advice import eviction_advice
from teacher_operator.decide.failed_pods import root_cause_pod, were_stopped, would_fail_again
from teacher_operator.decide.job_state import DISRUPTED
from teacher_operator.decide.pod_state import is_first, node_of, terminated
from teacher_operator.decide.sidecars import RUNS_ON

Body = Mapping[str, Any]

KILLED = 137
"""Exit code of a process that SIGKILL ended."""

DISRUPTION = "Disrupted"
"""Reason of a pod that the cluster has stopped, as by a preemption or a drain."""

NOTHING_LEFT = "NothingLeft"
"""Reason of a pod that ended with exit code 0 and without an outcome: the engine may never have run in it."""
NO_COMMAND = frozenset({0, 2, 126, 127, 128, 255})
"""Exit codes of a container in which the engine never ran: those of container runtimes, shells and argument parsers."""

SUMMARY_MAX = 1024
"""Maximum length of the message of a container that cannot start, in characters."""


def outcome_of(pods: Sequence[Body], container: str) -> Outcome | None:
    """Return the outcome of the newest pod that left a result; None if no pod did."""
    for pod in reversed(pods):
        ended = terminated(pod, container)
        outcome = parse_outcome(ended.get("message") or "") if ended else None
        if outcome is not None and outcome.has_result:
            return outcome
    return None


def outcome_failure(pods: Sequence[Body], container: str) -> FailureStatus | None:
    """Return the reason why a complete Job has no readable result; None if none of its pods exists any more."""
    done = [pod for pod in pods if pod["status"].get("phase") == "Succeeded" and is_first(pod)]
    if not done:
        return None
    message = (terminated(done[-1], container) or {}).get("message") or ""
    outcome = parse_outcome(message)
    if outcome is not None and outcome.message:
        reason, text = _reason_of(outcome.exit_code) or "OutcomeUnreadable", outcome.message
    elif not message:
        reason, text = (
            NOTHING_LEFT,
            "its container ended with exit code 0 and left no outcome: it was stopped too early",
        )
    else:
        reason, text = (
            "OutcomeUnreadable",
            (
                "the pod succeeded, but its outcome cannot be read: its image has another version than the operator, "
                "or the pod has so many containers that the kubelet kept only the beginning. It begins: "
                f"{message[:200]!r}"
            ),
        )
    name = done[-1]["metadata"]["name"]
    return FailureStatus(reason=reason, message=clip(text), exit_code=0, pod=name, node=node_of(done[-1]))


def pod_failure(pod: Body, container: str, log: Sequence[str]) -> FailureStatus:
    """Return the failure of a pod, from the end of its container, the engine's outcome and the status of the pod."""
    ended = terminated(pod, container) or {}
    exit_code = ended.get("exitCode")
    outcome = parse_outcome(ended.get("message") or "")
    reason, message = _cause(pod, container, ended, outcome)
    tail = list(log) or _lines(ended.get("message") or "" if outcome is None else "")
    return FailureStatus(
        reason=reason,
        message=clip(message),
        exit_code=exit_code,
        pod=pod["metadata"]["name"],
        node=node_of(pod),
        log_tail=[clip(line, 512) for line in tail[-LOG_LINES:]],
    )


def job_failure(job: Body, pods: Sequence[Body], container: str, log: Sequence[str]) -> FailureStatus:
    """Return the failure of a failed Job: that of the pod with the root cause, or the Job's own."""
    condition = next(c for c in job["status"]["conditions"] if c["type"] == "Failed" and c["status"] == "True")
    if condition.get("reason") == "DeadlineExceeded":
        limit = job["spec"].get("activeDeadlineSeconds")
        message = f"not done within the deadline of its Job, {limit} seconds"
        if container == INSPECT:
            message = f"the data was not inspected within {limit} seconds: check that the object store answers"
        return FailureStatus(reason="DeadlineExceeded", message=message)
    failed = [pod for pod in pods if pod["status"].get("phase") == "Failed"]
    root_cause = root_cause_pod(pods)
    if root_cause is None:
        message = condition.get("message") or "its pods no longer exist"
        return FailureStatus(reason=_reason(condition.get("reason"), "JobFailed"), message=clip(message))
    failure = pod_failure(root_cause, container, log)
    attempts = sum(is_first(pod) for pod in failed)
    if condition.get("reason") == "BackoffLimitExceeded" and attempts > 1:
        last = f" (attempt {attempts}, the last)"
        failure = failure.model_copy(update={"message": clip(failure.message, MESSAGE_MAX - len(last)) + last})
    return failure


def is_final(job: Body, pods: Sequence[Body]) -> bool:
    """Return True if a failed Job must not be replaced by a new one.

    That is so if its deadline is over, a pod left an outcome that a retry would repeat, or its last allowed attempt
    failed by itself. It is not so if only a FailJob rule matched (which sees nothing but exit codes), if the attempt
    was stopped from outside, if no failed pod exists any more, or if a sidecar kept the Job from using its retries.
    """
    condition = next(c for c in job["status"]["conditions"] if c["type"] == "Failed" and c["status"] == "True")
    root_cause = root_cause_pod(pods)
    if condition.get("reason") == "DeadlineExceeded" or (root_cause is not None and would_fail_again(root_cause)):
        return True
    if condition.get("reason") in {"PodFailurePolicy", RUNS_ON}:
        return False
    return root_cause is not None and not were_stopped(pods)


def failure_elsewhere(job: Body) -> FailureStatus | None:
    """Return the failure of a Job whose pods are in another cluster.

    Return None if its adapter is published but not better than the base: then its result is read. Only the status of
    the Job is known here, and the exit code only if the message of the Job controller contains it.
    """
    condition = next(c for c in job["status"]["conditions"] if c["type"] == "Failed" and c["status"] == "True")
    text = str(condition.get("message") or condition.get("reason") or "no cause is given")
    found = re.search(r"exit code (\d+)", text)
    exit_code = int(found[1]) if found else None
    if exit_code == NotBetterThanBaseError.exit_code:
        return None
    reason = _reason(condition.get("reason"), "JobFailed") if exit_code is None else _reason_of(exit_code) or "Crashed"
    message = f"failed in another cluster, which has its pods and their logs: {text}; the last checkpoint is kept"
    return FailureStatus(reason=reason, message=clip(message), exit_code=exit_code)


def _cause(pod: Body, container: str, ended: Body, outcome: Outcome | None) -> tuple[str, str]:
    node = node_of(pod)
    on_node = f" on node {node}" if node else ""
    exit_code = ended.get("exitCode")
    if ended.get("reason") == "OOMKilled":
        limit = _memory_limit(pod, container)
        allowed = f"more than its limit of {limit}" if limit else "more memory than available"
        advice = "raise spec.resources.limits.memory, or lower the batch size"
        if container == INSPECT:
            advice = "raise inspectResources of the installation"
        return "OutOfMemory", f"killed{on_node} for using {allowed}: {advice}"
    reported = outcome if outcome is not None and outcome.message else None
    if reported is not None and reported.exit_code != InterruptedTrainingError.exit_code:
        return _reason_of(reported.exit_code) or _reason(reported.reason, "TrainerFailed"), reported.message
    status = pod["status"]
    disruption = next((c for c in status.get("conditions") or [] if c["type"] == DISRUPTED), None)
    if status.get("reason") == "Evicted":
        why = str(status.get("message") or "the node ran short of something").strip()
        advice = eviction_advice(why, container)
        return "Evicted", f"evicted{on_node}: {why}" + (f" To fix it, {advice}" if advice else "")
    if disruption is not None and disruption["status"] == "True":
        return DISRUPTION, f"stopped{on_node}: {disruption.get('message') or disruption.get('reason')}"
    if reported is not None:  # the sender of the signal is unknown
        return InterruptedTrainingError.reason, reported.message
    if not ended:
        return "PodFailed", status.get("message") or status.get("reason") or "the pod failed before its container ran"
    if exit_code == KILLED:
        return "Killed", f"killed{on_node} (exit code 137), cause unknown: most likely the node ran out of memory"
    if ended.get("reason") in {"ContainerCannotRun", "StartError"}:
        return "StartError", f"the container cannot start{on_node}: {ended.get('message', '')}"[:SUMMARY_MAX]
    if exit_code in EXIT_ERRORS:
        error = EXIT_ERRORS[exit_code]
        return (
            error.reason,
            f"ended{on_node} with exit code {exit_code}; the last lines of its log say why: {error.advice}",
        )
    if exit_code in NO_COMMAND and outcome is None:
        return (
            "Crashed",
            f"ended{on_node} with exit code {exit_code} and left no outcome: the container was stopped as it started, "
            "or its image accepts other arguments than those of the operator; its log, if any, shows which",
        )
    return "Crashed", f"ended{on_node} with exit code {exit_code}; the last lines of its log say why"


def _reason_of(exit_code: int) -> str | None:
    """Return the reason of one of the engine's exit codes; None for any other code."""
    error = EXIT_ERRORS.get(exit_code)
    return error.reason if error else None


def _reason(text: str | None, default: str) -> str:
    """Return a text if it is a valid reason of a condition, else the default."""
    return text if text and re.fullmatch(REASON, text) and len(text) <= 128 else default


def _memory_limit(pod: Body, container: str) -> str:
    for one in pod["spec"]["containers"]:
        if one["name"] == container:
            return str((one.get("resources", {}).get("limits") or {}).get("memory") or "")
    return ""


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]

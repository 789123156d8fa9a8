"""The Job controller's rules, for both stand-ins of a cluster in the operator's tests. Pure but for what it remembers.

Covers what the operator relies on: suspend, podFailurePolicy, backoffLimit, podReplacementPolicy Failed,
activeDeadlineSeconds, indexed completions, conditions that are first targets and true once no pod is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from teacher_operator.api.timestamps import seconds, timestamp

Body = dict[str, Any]
Verdict = Literal["succeeded", "failed", "ignored", "fatal"]
End = tuple[str, str, str]
"""Type, reason and message of a Job's last condition."""

JOB_NAME, INDEX = "batch.kubernetes.io/job-name", "batch.kubernetes.io/job-completion-index"


@dataclass(frozen=True)
class Plan:
    """What the controller does with a Job now."""

    end: End | None
    """How the Job ends, if it does."""
    delete: Sequence[Body] = ()
    """Its live pods that are to be deleted."""
    create: Sequence[int] = ()
    """Completion indices of the pods to be created."""


class JobRules:
    """Judges pods and plans Jobs; remembers each verdict, since an ended pod may be gone when its Job is planned."""

    def __init__(self) -> None:
        self._verdicts: dict[str, dict[str, Verdict]] = {}
        """By the uids of Job and pod."""
        self._deleted_by_suspension: set[str] = set()
        """Uids of pods; the Job controller counts no failure of a pod that it deletes by itself."""

    def judge(self, job: Body, pod: Body) -> None:
        """Count a pod that has ended or is gone, once."""
        verdicts = self._verdicts.setdefault(job["metadata"]["uid"], {})
        if pod["metadata"]["uid"] not in verdicts:
            verdict = _verdict(pod, job["spec"]["podFailurePolicy"]["rules"])
            ignored = verdict == "failed" and pod["metadata"]["uid"] in self._deleted_by_suspension
            verdicts[pod["metadata"]["uid"]] = "ignored" if ignored else verdict

    def plan(self, job: Body, pods: Sequence[Body], now: float) -> Plan | None:
        """Return what to do with a Job and its existing pods; None with one that has ended or runs elsewhere."""
        spec = job["spec"]
        if spec.get("managedBy") or has_ended(job):
            return None
        for pod in pods:
            if is_over(pod):
                self.judge(job, pod)
        verdicts = self._verdicts.setdefault(job["metadata"]["uid"], {})
        counts = Counter(verdicts.values())
        live = self._live(job, pods)
        wanted = spec.get("completions", 1)
        end = _decided(job) or _outcome(spec, counts, wanted) or _overdue(job, now)
        if end or spec.get("suspend"):
            if not end:
                self._deleted_by_suspension |= {pod["metadata"]["uid"] for pod in live}
            return Plan(end, delete=live)
        missing = wanted - len(live) - counts["succeeded"]
        if missing <= 0:
            return Plan(None)
        succeeded = [pod for pod in pods if verdicts.get(pod["metadata"]["uid"]) == "succeeded"]
        taken = {_index(pod) for pod in [*live, *succeeded]} if is_indexed(job) else set()
        return Plan(None, create=sorted(set(range(wanted)) - taken)[:missing])

    def status(self, job: Body, pods: Sequence[Body], end: End | None, now: float) -> Body:
        """Return the status of a Job, given the pods that exist after its plan was carried out."""
        counts = Counter(self._verdicts.get(job["metadata"]["uid"], {}).values())
        live = self._live(job, pods)
        status: Body = {"active": sum("deletionTimestamp" not in pod["metadata"] for pod in live)}
        status |= {name: counts[name] for name in ("succeeded", "failed") if counts[name]}
        conditions = [one for one in job["status"].get("conditions", ()) if one["type"] != "Suspended"]
        if job["spec"].get("suspend"):
            conditions.append(_condition(job, now, "Suspended", "JobSuspended", "Job suspended"))
        else:
            status["startTime"] = job["status"].get("startTime") or timestamp(now)
        if end:
            target = "FailureTarget" if end[0] == "Failed" else "SuccessCriteriaMet"
            conditions = [one for one in conditions if one["type"] != target]
            conditions += [_condition(job, now, kind, *end[1:]) for kind in ([target] if live else [target, end[0]])]
        return status | {"conditions": conditions}

    def _live(self, job: Body, pods: Sequence[Body]) -> list[Body]:
        verdicts = self._verdicts.get(job["metadata"]["uid"], {})
        return [pod for pod in pods if pod["metadata"]["uid"] not in verdicts]


def deadline(job: Body) -> float | None:
    """Return when a started Job is to end at the latest, in seconds since the epoch."""
    span, began = job["spec"].get("activeDeadlineSeconds"), seconds(job["status"].get("startTime"))
    return None if not span or began is None or job["spec"].get("suspend") else began + span


def has_ended(job: Body) -> bool:
    return any(one["type"] in ("Complete", "Failed") for one in job["status"].get("conditions", ()))


def is_indexed(job: Body) -> bool:
    return bool(job["spec"].get("completionMode") == "Indexed")


def is_over(pod: Body) -> bool:
    return pod["status"].get("phase") in ("Succeeded", "Failed")


def _index(pod: Body) -> int:
    return int(pod["metadata"]["labels"][INDEX])


def _overdue(job: Body, now: float) -> End | None:
    last = deadline(job)
    if last is None or now < last:
        return None
    return "Failed", "DeadlineExceeded", "Job was active longer than specified deadline"


def _decided(job: Body) -> End | None:
    for target, kind in (("FailureTarget", "Failed"), ("SuccessCriteriaMet", "Complete")):
        for one in job["status"].get("conditions", ()):
            if one["type"] == target:
                return kind, one["reason"], one["message"]
    return None


def _outcome(spec: Body, counts: Counter[Verdict], wanted: int) -> End | None:
    if counts["fatal"]:
        return "Failed", "PodFailurePolicy", "a container failed with an exit code that matches a FailJob rule"
    if counts["failed"] > spec.get("backoffLimit", 6):
        return "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    if counts["succeeded"] >= wanted:
        return "Complete", "CompletionsReached", "Reached expected number of succeeded pods"
    return None


def _verdict(pod: Body, rules: list[Body]) -> Verdict:
    """Judge a pod that has ended, or that was removed before it could report that."""
    status = pod["status"]
    if status.get("phase") == "Succeeded":
        return "succeeded"
    codes = {
        one["name"]: (one.get("state", {}).get("terminated") or {}).get("exitCode")
        for one in status.get("containerStatuses", ())
    }
    disrupted = {one["type"] for one in status.get("conditions", ()) if one["status"] == "True"}
    for rule in rules:
        exits = rule.get("onExitCodes")
        hit = exits and _matches(exits, codes)
        if hit or any(one["type"] in disrupted for one in rule.get("onPodConditions", ())):
            return "fatal" if rule["action"] == "FailJob" else "ignored"
    return "ignored" if "deletionTimestamp" in pod["metadata"] and not is_over(pod) else "failed"


def _matches(exits: Body, codes: dict[str, int | None]) -> bool:
    """Containers that ended well match nothing; without a name, any container may match."""
    names = [exits["containerName"]] if "containerName" in exits else list(codes)
    failed = [code for name in names if (code := codes.get(name))]
    return any((code in exits["values"]) == (exits["operator"] == "In") for code in failed)


def _condition(job: Body, now: float, kind: str, reason: str, message: str) -> Body:
    old = next((one for one in job["status"].get("conditions", ()) if one["type"] == kind), None)
    since = timestamp(now)
    return old or {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": since}

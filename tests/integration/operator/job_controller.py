"""Stands in for the Job controller and the garbage collector, over objects in memory.

What is here of them is what the operator rests on: suspend, podFailurePolicy, backoffLimit, podReplacementPolicy
Failed, activeDeadlineSeconds, indexed completions, pods that end before their Job goes or ends, children that go with
their owner.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from typing import Any, Literal

import kmock
from memory_api import Body, Objects, Place, copied, now

Verdict = Literal["succeeded", "failed", "ignored", "fatal"]
End = tuple[str, str, str]
"""Type, reason and message of a Job's last condition."""

JOB_NAME, INDEX = "batch.kubernetes.io/job-name", "batch.kubernetes.io/job-completion-index"


class JobController:
    """Acts on every change until it is cancelled."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self._verdicts: dict[str, dict[str, Verdict]] = {}
        """By the uids of Job and pod."""
        self._children: dict[str, set[Place]] = {}
        """By the uid of their controller, known since they were made: nobody is looked for among all."""
        self._places: dict[str, Place] = {}
        """Of all that is not gone, by uid."""
        self._taken_away: set[str] = set()
        """Uids of the pods of suspended Jobs."""
        self._read = 0
        self._blocked: set[Place] = set()
        """Jobs whose pods were refused; they are tried again."""

    async def run(self) -> None:
        while True:
            try:
                await asyncio.wait_for(self.objects.change(self._read), 0.2 if self._blocked else None)
            except TimeoutError:
                for job in sorted(self._blocked):
                    self._blocked.discard(job)
                    self._sync(job)
            for version, kind, plural, body in self.objects.log[self._read_from() :]:
                self._read = version
                self._changed(kind, plural, body)
            await asyncio.sleep(0)

    def _read_from(self) -> int:
        log = self.objects.log
        at = len(log)
        while at and log[at - 1][0] > self._read:
            at -= 1
        return at

    def _changed(self, kind: str, plural: str, body: Body) -> None:
        metadata = body["metadata"]
        place = (plural, metadata["namespace"], metadata["name"])
        owner = next((one["uid"] for one in metadata.get("ownerReferences", ()) if one.get("controller")), None)
        if kind == "DELETED":
            self._places.pop(metadata["uid"], None)
            self._children.get(owner, set()).discard(place)
            for child in sorted(self._children.pop(metadata["uid"], ())):
                self._remove(child)
        else:
            self._places[metadata["uid"]] = place
        if kind != "DELETED" and owner is not None:
            self._children.setdefault(owner, set()).add(place)
            if owner not in self._places:
                self._remove(place)  # it came after its owner had gone
        if plural == "jobs" and kind != "DELETED":
            self._sync(place)
        if plural == "pods":
            job = ("jobs", place[1], (metadata.get("labels") or {}).get(JOB_NAME, ""))
            if kind == "DELETED" and owner is not None:
                self._judge(body, owner)
            self._sync(job)

    def _remove(self, place: Place, *, grace: float | None = None) -> None:
        if place in self.objects.bodies:
            self.objects.delete(place, grace=grace)

    def _sync(self, place: Place) -> None:
        job = self.objects.bodies.get(place)
        if job is None:
            return
        uid, spec = job["metadata"]["uid"], job["spec"]
        pods = [
            self.objects.bodies[child] for child in sorted(self._children.get(uid, ())) if child in self.objects.bodies
        ]
        if "deletionTimestamp" in job["metadata"]:
            for pod in pods:
                self._remove(
                    _place(pod),
                    grace=0 if _over(pod) or pod["metadata"].get("deletionGracePeriodSeconds") == 0 else None,
                )
            if not any(_place(pod) in self.objects.bodies for pod in pods):
                del self.objects.bodies[place]
                self.objects._commit("DELETED", "jobs", job, keep=False)
            return
        if spec.get("managedBy"):
            return  # its pods are in another cluster
        if any(one["type"] in ("Complete", "Failed") for one in job["status"].get("conditions", ())):
            return
        for pod in pods:
            if _over(pod):
                self._judge(pod, uid)
        verdicts = self._verdicts.setdefault(uid, {})
        counts = Counter(verdicts.values())
        live = [pod for pod in pods if pod["metadata"]["uid"] not in verdicts]
        wanted = spec.get("completions", 1)
        ended = _decided(job) or _ended(spec, counts, wanted) or self._overdue(place, job)
        if ended or spec.get("suspend"):
            for pod in live:
                if not ended:  # of what the Job controller takes away by itself, it counts no failure
                    self._taken_away.add(pod["metadata"]["uid"])
                self._remove(_place(pod))
        elif len(live) + counts["succeeded"] < wanted:
            succeeded = [pod for pod in pods if verdicts.get(pod["metadata"]["uid"]) == "succeeded"]
            taken = {_index(pod) for pod in [*live, *succeeded]} if spec.get("completionMode") == "Indexed" else set()
            try:
                for index in sorted(set(range(wanted)) - taken)[: wanted - len(live) - counts["succeeded"]]:
                    self._make_pod(job, index)
            except kmock.KubernetesError as error:
                self._complain(job, f"Error creating: {error.message}")
            live = [self.objects.bodies[child] for child in self._children.get(uid, ()) if child in self.objects.bodies]
            live = [pod for pod in live if pod["metadata"]["uid"] not in verdicts]
        status: dict[str, Any] = {"active": sum("deletionTimestamp" not in pod["metadata"] for pod in live)}
        status |= {name: counts[name] for name in ("succeeded", "failed") if counts[name]}
        conditions = [one for one in job["status"].get("conditions", ()) if one["type"] != "Suspended"]
        if spec.get("suspend"):
            conditions.append(_condition("Suspended", "JobSuspended", "Job suspended", job))
        else:
            status["startTime"] = job["status"].get("startTime") or now()
        if ended:  # first said, and true once no pod is left
            target = "FailureTarget" if ended[0] == "Failed" else "SuccessCriteriaMet"
            left = any(_place(pod) in self.objects.bodies for pod in live)
            conditions = [one for one in conditions if one["type"] != target]
            conditions += [_condition(kind, *ended[1:], job) for kind in ([target] if left else [target, ended[0]])]
        self.objects.write(place, {**job, "status": status | {"conditions": conditions}}, status=True)

    def _overdue(self, place: Place, job: Body) -> End | None:
        seconds, began = job["spec"].get("activeDeadlineSeconds"), job["status"].get("startTime")
        if not seconds or not began or job["spec"].get("suspend"):
            return None
        left = (datetime.fromisoformat(began) - datetime.now(UTC)).total_seconds() + seconds
        if left > 0:
            asyncio.get_running_loop().call_later(left, self._sync, place)
            return None
        return "Failed", "DeadlineExceeded", "Job was active longer than specified deadline"

    def _complain(self, job: Body, message: str) -> None:
        name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
        about = {"kind": "Job", "name": name, "namespace": namespace, "uid": job["metadata"]["uid"]}
        event = {"metadata": {"generateName": f"{name}."}, "involvedObject": about, "type": "Warning"}
        event |= {"reason": "FailedCreate", "message": message, "lastTimestamp": now()}
        self.objects.create("events", namespace, event)
        self._blocked.add(("jobs", namespace, name))

    def _judge(self, pod: Body, job_uid: str) -> None:
        verdicts = self._verdicts.setdefault(job_uid, {})
        job = self.objects.bodies.get(self._places.get(job_uid, ("", "", "")))
        if job is not None and pod["metadata"]["uid"] not in verdicts:
            verdict = _verdict(pod, job["spec"]["podFailurePolicy"]["rules"])
            ignored = verdict == "failed" and pod["metadata"]["uid"] in self._taken_away
            verdicts[pod["metadata"]["uid"]] = "ignored" if ignored else verdict

    def _make_pod(self, job: Body, index: int) -> None:
        template, name = copied(job["spec"]["template"]), job["metadata"]["name"]
        labels = {**template["metadata"]["labels"], JOB_NAME: name}
        indexed = job["spec"].get("completionMode") == "Indexed"
        if indexed:
            labels[INDEX] = str(index)
        owner = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": name,
            "uid": job["metadata"]["uid"],
            "controller": True,
        }
        middle = f"-{index}" if indexed else ""
        metadata = {"generateName": f"{name}{middle}-", "labels": labels, "ownerReferences": [owner]}
        if "annotations" in template["metadata"]:
            metadata["annotations"] = template["metadata"]["annotations"]
        made = self.objects.create(
            "pods", job["metadata"]["namespace"], {"metadata": metadata, "spec": template["spec"]}
        )
        self._children.setdefault(job["metadata"]["uid"], set()).add(_place(made))
        self.objects.write(_place(made), {**made, "status": {"phase": "Pending"}}, status=True)


def _decided(job: Body) -> End | None:
    for target, kind in (("FailureTarget", "Failed"), ("SuccessCriteriaMet", "Complete")):
        for one in job["status"].get("conditions", ()):
            if one["type"] == target:
                return kind, one["reason"], one["message"]
    return None


def _ended(spec: Body, counts: Counter[Verdict], wanted: int) -> End | None:
    if counts["fatal"]:
        return "Failed", "PodFailurePolicy", "a container failed with an exit code that matches a FailJob rule"
    if counts["failed"] > spec.get("backoffLimit", 6):
        return "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    if counts["succeeded"] >= wanted:
        return "Complete", "CompletionsReached", "Reached expected number of succeeded pods"
    return None


def _verdict(pod: Body, rules: list[Body]) -> Verdict:
    """Of a pod that has ended, or was removed before it could say so."""
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
    return "ignored" if "deletionTimestamp" in pod["metadata"] and not _over(pod) else "failed"


def _matches(exits: Body, codes: dict[str, int | None]) -> bool:
    """Containers that ended well match nothing; without a name, any container may match."""
    names = [exits["containerName"]] if "containerName" in exits else list(codes)
    failed = [code for name in names if (code := codes.get(name))]
    return any((code in exits["values"]) == (exits["operator"] == "In") for code in failed)


def _condition(kind: str, reason: str, message: str, job: Body) -> Body:
    old = next((one for one in job["status"].get("conditions", ()) if one["type"] == kind), None)
    return old or {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now()}


def _index(pod: Body) -> int:
    return int(pod["metadata"]["labels"][INDEX])


def _over(pod: Body) -> bool:
    return pod["status"].get("phase") in ("Succeeded", "Failed")


def _place(body: Body) -> Place:
    return "pods", body["metadata"]["namespace"], body["metadata"]["name"]

"""Stands in for the Job controller and the garbage collector, over objects in memory: acts by :mod:`job_rules`.

Pods end before their Job goes or ends; children go with their owner.
"""

from __future__ import annotations

import asyncio
import time

import kmock
from job_rules import INDEX, JOB_NAME, JobRules, deadline, is_indexed, is_over
from memory_api import Body, Objects, Place, copied, now


class JobController:
    """Acts on every change until it is cancelled."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self._rules = JobRules()
        self._children: dict[str, set[Place]] = {}
        """By the uid of their controller, known since they were made: nobody is looked for among all."""
        self._places: dict[str, Place] = {}
        """Of all that is not gone, by uid."""
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
        uid = job["metadata"]["uid"]
        pods = self._pods(uid)
        if "deletionTimestamp" in job["metadata"]:
            for pod in pods:
                self._remove(
                    _place(pod),
                    grace=0 if is_over(pod) or pod["metadata"].get("deletionGracePeriodSeconds") == 0 else None,
                )
            if not any(_place(pod) in self.objects.bodies for pod in pods):
                del self.objects.bodies[place]
                self.objects._commit("DELETED", "jobs", job, keep=False)
            return
        plan = self._rules.plan(job, pods, time.time())
        if plan is None:
            return
        self._wake_at_deadline(place, job)
        for pod in plan.delete:
            self._remove(_place(pod))
        try:
            for index in plan.create:
                self._make_pod(job, index)
        except kmock.KubernetesError as error:
            self._complain(job, f"Error creating: {error.message}")
        status = self._rules.status(job, self._pods(uid), plan.end, time.time())
        self.objects.write(place, {**job, "status": status}, status=True)

    def _pods(self, job_uid: str) -> list[Body]:
        children = sorted(self._children.get(job_uid, ()))
        return [self.objects.bodies[child] for child in children if child in self.objects.bodies]

    def _wake_at_deadline(self, place: Place, job: Body) -> None:
        last = deadline(job)
        if last is not None and last > time.time():
            asyncio.get_running_loop().call_later(last - time.time(), self._sync, place)

    def _complain(self, job: Body, message: str) -> None:
        name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
        about = {"kind": "Job", "name": name, "namespace": namespace, "uid": job["metadata"]["uid"]}
        event = {"metadata": {"generateName": f"{name}."}, "involvedObject": about, "type": "Warning"}
        event |= {"reason": "FailedCreate", "message": message, "lastTimestamp": now()}
        self.objects.create("events", namespace, event)
        self._blocked.add(("jobs", namespace, name))

    def _judge(self, pod: Body, job_uid: str) -> None:
        job = self.objects.bodies.get(self._places.get(job_uid, ("", "", "")))
        if job is not None:
            self._rules.judge(job, pod)

    def _make_pod(self, job: Body, index: int) -> None:
        template, name = copied(job["spec"]["template"]), job["metadata"]["name"]
        labels = {**template["metadata"]["labels"], JOB_NAME: name}
        indexed = is_indexed(job)
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


def _place(body: Body) -> Place:
    return "pods", body["metadata"]["namespace"], body["metadata"]["name"]

"""What scenarios are written in: users who make objects, kubelets whose pods do as they are told, an operator.

All of it is plain HTTP to an API server, so that the same scenario runs in memory and on a real control plane.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import aiohttp
import outcomes
import yarl
from memory_api import MemoryApi, label_policy
from operators import Operator

from engine.spec import TeacherName

Body = dict[str, Any]
T = TypeVar("T")

RUNS = "apis/finetune.dev/v1alpha1"
PATHS = {
    "teacherfinetunes": RUNS,
    "jobs": "apis/batch/v1",
    "leases": "apis/coordination.k8s.io/v1",
    "endpointslices": "apis/discovery.k8s.io/v1",
    "networkpolicies": "apis/networking.k8s.io/v1",
}
POLICIES = "admissionregistration.k8s.io"
MERGE, APPLY = "application/merge-patch+json", "application/apply-patch+yaml"
MINE = {"X-Test": "world"}
"""Marks requests of the test itself."""


class RefusedError(Exception):
    """The API server has refused."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


@dataclass
class Api:
    """Requests to an API server, as its administrator."""

    session: aiohttp.ClientSession
    url: str

    async def call(self, method: str, path: str, body: Body | None = None, *, content: str = "", **query: str) -> Body:
        headers = MINE | {"Content-Type": content or "application/json"}
        data = None if body is None else json.dumps(body)
        url = yarl.URL(f"{self.url}/{path}").with_query(query)
        async with self.session.request(method, url, data=data, headers=headers) as answer:
            text = await answer.text()
            if answer.status >= 400:
                raise RefusedError(answer.status, _message(text))
            said: Body = json.loads(text)
            return said


@dataclass
class World:
    """One namespace with an operator that watches it."""

    api: Api
    namespace: str
    operator: Operator
    tier: str
    logs: dict[tuple[str, str], list[str]]
    """Lines of the containers of pods, by namespace and pod."""
    patience: float = 20.0
    """Seconds until what should come about has come about."""
    node: str = "node-1"
    """Where pods run, unless a test says otherwise; on a real API server, only its logs can be read."""
    memory: MemoryApi | None = None
    """The API server, where it is one in memory."""

    # Objects

    def path(self, plural: str, name: str = "", sub: str = "", *, namespace: str = "") -> str:
        parts = [PATHS.get(plural, "api/v1"), "namespaces", namespace or self.namespace, plural, name, sub]
        return "/".join(part for part in parts if part)

    async def create(self, run: str, *, namespace: str = "", metadata: Body | None = None, **spec: Any) -> Body:
        """A user makes an object; what is required has a default."""
        given = {
            "dataset": {"annotations": f"s3://data/{run}/annotations.json", "images": f"s3://data/{run}/images/"},
            "output": "s3://models/",
        }
        body = {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "TeacherFineTune",
            "metadata": {"name": run} | (metadata or {}),
            "spec": {name: value for name, value in (given | spec).items() if value is not None},
        }
        return await self.api.call("POST", self.path("teacherfinetunes", namespace=namespace), body)

    async def edit(self, run: str, **spec: Any) -> Body:
        """A user changes an object; None takes a field away."""
        return await self.patch("teacherfinetunes", run, {"spec": spec})

    async def patch(self, plural: str, name: str, patch: Body, sub: str = "") -> Body:
        return await self.api.call("PATCH", self.path(plural, name, sub), patch, content=MERGE)

    async def delete(self, plural: str, name: str, **options: Any) -> None:
        await self.api.call("DELETE", self.path(plural, name), {"kind": "DeleteOptions", "apiVersion": "v1", **options})

    async def find(self, plural: str, name: str, *, namespace: str = "") -> Body | None:
        try:
            return await self.api.call("GET", self.path(plural, name, namespace=namespace))
        except RefusedError as error:
            if error.code == 404:
                return None
            raise

    async def all(self, plural: str, *, namespace: str = "", **query: str) -> list[Body]:
        items: list[Body] = (await self.api.call("GET", self.path(plural, namespace=namespace), **query))["items"]
        return items

    async def run(self, run: str, *, namespace: str = "") -> Body:
        body = await self.find("teacherfinetunes", run, namespace=namespace)
        assert body is not None, f"{run} is gone"
        return body

    async def status(self, run: str, *, namespace: str = "") -> Body:
        status: Body = (await self.run(run, namespace=namespace)).get("status") or {}
        return status

    async def teacher(self, run: str, teacher: TeacherName = TeacherName.GROUNDING_DINO, **where: str) -> Body:
        teachers = (await self.status(run, **where)).get("teachers") or []
        return next((one for one in teachers if one["name"] == teacher.value), {})

    async def jobs(self, run: str, *, namespace: str = "") -> list[Body]:
        return await self.all("jobs", namespace=namespace, labelSelector=f"finetune.dev/run={run}")

    async def pods(self, run: str, *, namespace: str = "") -> list[Body]:
        return await self.all("pods", namespace=namespace, labelSelector=f"finetune.dev/run={run}")

    async def events(self, run: str, *, namespace: str = "") -> list[Body]:
        return await self.all("events", namespace=namespace, fieldSelector=f"involvedObject.name={run}")

    # Waiting

    async def warned(self, run: str) -> list[Body]:
        """The Warning events of a run, once there is one: they come after the status that they tell of."""

        async def there() -> list[Body]:
            return [event for event in await self.events(run) if event["type"] == "Warning"]

        return await self.until(there, "a warning")

    async def until(self, check: Callable[[], Awaitable[T]], what: str, *, seconds: float = 0.0) -> T:
        """What a check returns, as soon as it is true."""
        deadline = time.monotonic() + (seconds or self.patience)
        while True:
            found = await check()
            if found:
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: it does not come about\n{await self._picture()}")
            await asyncio.sleep(0.02 if self.tier == "memory" else 0.1)

    async def reaches(self, run: str, reason: str, *, seconds: float = 0.0, saying: str = "", **where: str) -> Body:
        """Wait for the summary condition to have a reason, and a message that holds some words; the status then."""

        async def there() -> Body | None:
            status = await self.status(run, **where)
            summary = condition(status, "Succeeded")
            return status if summary.get("reason") == reason and saying in summary.get("message", "") else None

        return await self.until(there, f"{run} is {reason} {saying}", seconds=seconds) or {}

    async def teacher_reaches(self, run: str, state: str, teacher: TeacherName = TeacherName.GROUNDING_DINO) -> Body:
        async def there() -> Body | None:
            one = await self.teacher(run, teacher)
            return one if one.get("state") == state else None

        return await self.until(there, f"{teacher} of {run} is {state}") or {}

    async def gone(self, plural: str, name: str) -> None:
        async def absent() -> bool:
            return await self.find(plural, name) is None

        await self.until(absent, f"{plural} {name} is gone")

    async def job(self, run: str, part: str, *, other_than: str = "", **where: str) -> Body:
        """Wait for the Job of inspection or of a teacher; for another than the one of a uid, if given."""

        async def there() -> Body | None:
            job = await self.find("jobs", f"{run}-{part}", **where)
            return job if job is not None and job["metadata"]["uid"] != other_than else None

        return await self.until(there, f"Job {run}-{part}") or {}

    async def pod(
        self, run: str, part: str, *, besides: Sequence[str] = (), seconds: float = 0.0, **where: str
    ) -> Body:
        """Wait for a pod of a Job that has not ended and is not to; for another than those named, if given."""

        async def there() -> Body | None:
            pods = await self.pods(run, **where)
            mine = [
                one
                for one in pods
                if one["metadata"]["labels"]["batch.kubernetes.io/job-name"] == f"{run}-{part}"
                and one["status"].get("phase") in ("Pending", "Running")
                and "deletionTimestamp" not in one["metadata"]
                and one["metadata"]["name"] not in besides
            ]
            return mine[0] if mine else None

        return await self.until(there, f"a pod of {run}-{part}", seconds=seconds) or {}

    async def remains(self, check: Callable[[], Awaitable[bool]], what: str, *, seconds: float = 1.5) -> None:
        """Something stays true for a while."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert await check(), f"{what}: it does not stay so\n{await self._picture()}"
            await asyncio.sleep(0.1)

    # What kubelets, the scheduler and other controllers do

    async def schedule(self, pod: Body, node: str = "") -> None:
        if not await self._node_of(pod):
            target = {"apiVersion": "v1", "kind": "Node", "name": node or self.node}
            binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": _name(pod)}, "target": target}
            await self.api.call("POST", self.path("pods", _name(pod), "binding", namespace=_space(pod)), binding)

    async def unschedulable(self, pod: Body, message: str) -> None:
        await self.report(pod, conditions=[_said("PodScheduled", "False", "Unschedulable", message)])

    async def waits(self, pod: Body, reason: str, message: str) -> None:
        """The node cannot start the container."""
        await self.schedule(pod)
        await self.report(pod, {"waiting": {"reason": reason, "message": message}}, phase="Pending")

    async def runs(self, pod: Body, node: str = "") -> None:
        await self.schedule(pod, node)
        await self.report(pod, {"running": {"startedAt": moment()}}, phase="Running", startTime=moment())

    async def says(self, pod: Body, *lines: str) -> None:
        """The container writes to its log."""
        self.logs.setdefault((_space(pod), _name(pod)), []).extend(lines)

    async def succeeds(self, pod: Body, message: str) -> None:
        await self.ends(pod, 0, "Completed", message, phase="Succeeded")

    async def fails(self, pod: Body, code: int, *, message: str = "", reason: str = "Error") -> None:
        await self.ends(pod, code, reason, message, phase="Failed")

    async def ends(self, pod: Body, code: int, why: str, left: str, *, phase: str, **status: Any) -> None:
        """A container ends, and leaves a message; a pod may have a reason and message of its own."""
        if not await self._node_of(pod):
            await self.runs(pod)
        begun = (await self._container(pod)).get("running", {}).get("startedAt") or moment()
        end = {"exitCode": code, "reason": why, "message": left, "startedAt": begun, "finishedAt": moment()}
        await self.report(pod, {"terminated": end}, phase=phase, **status)

    async def disrupted(self, pod: Body, reason: str, message: str) -> None:
        """Something says that the pod is about to be stopped through no fault of its own."""
        await self.report(pod, conditions=[_said("DisruptionTarget", "True", reason, message)])

    async def loses_node(self, pod: Body) -> None:
        """The node of a pod stops reporting: the node controller marks the pod with a condition without a reason."""
        ready = {"type": "Ready", "status": "False", "lastTransitionTime": moment()}
        containers = {"type": "ContainersReady", "status": "True", "lastTransitionTime": moment()}
        await self.report(pod, conditions=[containers, ready])

    async def told_to_stop(self, pod: Body, *, seconds: float = 0.0) -> None:
        """Wait until the pod is to end, or is gone."""

        async def so() -> bool:
            now = await self.find("pods", _name(pod), namespace=_space(pod))
            return now is None or "deletionTimestamp" in now["metadata"]

        await self.until(so, f"{_name(pod)} is told to stop", seconds=seconds)

    async def stops(self, pod: Body, code: int = 143) -> None:
        """The kubelet of a pod that is being deleted says that it has ended, and lets it go."""
        await self.fails(pod, code, message=outcomes.failure(143, "stopped by SIGTERM after a checkpoint"))
        await self.vanishes(pod)

    async def vanishes(self, pod: Body) -> None:
        """The pod is gone, with whatever it left."""
        try:
            path = self.path("pods", _name(pod), namespace=_space(pod))
            await self.api.call("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0})
        except RefusedError as error:
            if error.code != 404:
                raise

    async def report(
        self,
        pod: Body,
        state: Body | None = None,
        *,
        conditions: Sequence[Body] = (),
        others: Sequence[Body] = (),
        **status: Any,
    ) -> None:
        """The kubelet, or another controller, writes the status of a pod; ``others`` are of containers beside ours."""
        before = await self.find("pods", _name(pod), namespace=_space(pod)) or pod
        if state is not None:
            container = pod["spec"]["containers"][0]
            up = "running" in state
            status["containerStatuses"] = [
                {
                    "name": container["name"],
                    "image": container["image"],
                    "imageID": "",
                    "ready": up,
                    "started": up,
                    "restartCount": 0,
                    "state": state,
                },
                *others,
            ]
        if conditions:
            new = {one["type"] for one in conditions}
            old = [one for one in before["status"].get("conditions") or () if one["type"] not in new]
            status["conditions"] = [*old, *conditions]
        path = self.path("pods", _name(pod), "status", namespace=_space(pod))
        await self.api.call("PATCH", path, {"status": status}, content=MERGE)

    async def forbids(self, plural: str) -> None:
        """A quota leaves none of a kind, from now on."""
        if self.memory is not None:
            self.memory.objects.forbidden.add(plural)
            return
        hard = {{"jobs": "count/jobs.batch"}.get(plural, plural): "0"}
        quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": hard}}
        await self.api.call("POST", self.path("resourcequotas"), quota)

        async def counted() -> bool:
            there = await self.find("resourcequotas", "none") or {}
            return bool((there.get("status") or {}).get("hard"))

        await self.until(counted, "the quota is kept")

    async def allows_again(self) -> None:
        if self.memory is not None:
            self.memory.objects.forbidden.clear()
        else:
            await self.delete("resourcequotas", "none")

    async def requires_label(self, label: str) -> None:
        """A policy of the cluster refuses Jobs and pods of this namespace that lack a label, from now on."""
        name = f"{label}-{self.namespace}"
        if self.memory is not None:
            self.memory.objects.guards.append(label_policy(name, label))
            return
        rule = {"apiGroups": ["", "batch"], "apiVersions": ["v1"], "operations": ["CREATE"]}
        policy = {
            "matchConstraints": {"resourceRules": [rule | {"resources": ["jobs", "pods"]}]},
            "validations": [
                {
                    "expression": f"has(object.metadata.labels) && '{label}' in object.metadata.labels",
                    "message": f"label {label} is required",
                }
            ],
        }
        here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.namespace}}}
        binding = {"policyName": name, "validationActions": ["Deny"], "matchResources": here}
        for kind, spec in (("ValidatingAdmissionPolicy", policy), ("ValidatingAdmissionPolicyBinding", binding)):
            body = {"apiVersion": f"{POLICIES}/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}
            plural = "validatingadmissionpolicies" if kind.endswith("Policy") else "validatingadmissionpolicybindings"
            await self.api.call("POST", f"apis/{POLICIES}/v1/{plural}", body)
        pod = {"restartPolicy": "Never", "containers": [{"name": "a", "image": "a"}]}
        probe = {"metadata": {"name": "probe"}, "spec": {"template": {"spec": pod}}}

        async def in_force() -> bool:
            try:
                await self.api.call("POST", self.path("jobs"), probe, dryRun="All")
            except RefusedError as error:
                return name in error.message
            return False

        await self.until(in_force, "the policy is in force")

    async def warns(self, kind: str, name: str, reason: str, message: str) -> None:
        """Some other controller posts a Warning."""
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{name}.", "namespace": self.namespace},
            "involvedObject": {"kind": kind, "name": name, "namespace": self.namespace},
            "type": "Warning",
            "reason": reason,
            "message": message,
            "firstTimestamp": moment(),
            "lastTimestamp": moment(),
            "count": 1,
        }
        await self.api.call("POST", self.path("events"), event)

    # Stretches of a run that goes well

    async def inspects(
        self, run: str, teachers: Sequence[TeacherName] = outcomes.BOXES, *, namespace: str = ""
    ) -> None:
        """Play inspection, from its pod to its end."""
        pod = await self.pod(run, "inspect", namespace=namespace)
        await self.runs(pod)
        await self.succeeds(pod, outcomes.prepared(run, teachers))

    async def starts(self, run: str, teacher: TeacherName = TeacherName.GROUNDING_DINO, **where: Any) -> Body:
        """Let the pod of a trainer run."""
        pod = await self.pod(run, part_of(teacher), **where)
        await self.runs(pod)
        return pod

    async def trains(self, run: str, teacher: TeacherName = TeacherName.GROUNDING_DINO, **where: Any) -> None:
        """Play a trainer, from its pod to its end."""
        pod = await self.starts(run, teacher, **where)
        await self.succeeds(pod, outcomes.trained(run, teacher))

    async def _node_of(self, pod: Body) -> str:
        now = await self.find("pods", _name(pod), namespace=_space(pod)) or {"spec": {}}
        return str(now["spec"].get("nodeName") or "")

    async def _container(self, pod: Body) -> Body:
        now = await self.find("pods", _name(pod), namespace=_space(pod)) or {"status": {}}
        state: Body = next((one.get("state") or {} for one in now["status"].get("containerStatuses") or ()), {})
        return state

    async def _picture(self) -> str:
        """What there is, for whoever reads of a failure."""
        lines = []
        for plural in ("teacherfinetunes", "jobs", "pods"):
            for body in (await self.all(plural))[:20]:
                status = json.dumps(body.get("status") or {}, indent=1)[:3000]
                lines.append(f"{plural} {body['metadata']['name']}: {status}")
        return "\n".join(lines)


def part_of(teacher: TeacherName) -> str:
    """The end of the name of a teacher's Job."""
    return teacher.slug.replace("_", "-")


def condition(status: Body, kind: str) -> Body:
    return next((one for one in status.get("conditions") or () if one["type"] == kind), {})


def moment() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _said(kind: str, status: str, reason: str, message: str) -> Body:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": moment()}


def _name(body: Body) -> str:
    return str(body["metadata"]["name"])


def _space(body: Body) -> str:
    return str(body["metadata"]["namespace"])


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text

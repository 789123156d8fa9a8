"""An API server in memory: kmock's server, request parser and discovery, over a store that behaves as etcd's does.

kmock keeps objects too, but without what a controller rests on: uid, resourceVersion, generation, optimistic locking,
server-side apply, status apart from spec, label selectors, watches that lose nothing, owners. That is closed here, in
test code alone, by answering requests for objects ourselves. It is a stand-in for quick tests; the same scenarios run
against a real API server.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp.web
import attrs
import jsonschema
import kmock
import yaml
from structural_schema import admitted

Body = dict[str, Any]
Place = tuple[str, str, str]
"""Plural, namespace, name."""

CRD = yaml.safe_load((Path(__file__).parents[3] / "crds" / "teacherfinetunes.finetune.dev.yaml").read_text())
SCHEMA = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
RUNS = CRD["spec"]["names"]["plural"]
KINDS = {
    f"finetune.dev/v1alpha1/{RUNS}": "TeacherFineTune",
    "batch/v1/jobs": "Job",
    "v1/pods": "Pod",
    "v1/configmaps": "ConfigMap",
    "v1/services": "Service",
    "v1/events": "Event",
    "networking.k8s.io/v1/networkpolicies": "NetworkPolicy",
    "coordination.k8s.io/v1/leases": "Lease",
}
VERBS = {"get", "list", "watch", "create", "update", "patch", "delete"}
WITH_STATUS = {RUNS, "jobs", "pods"}
WITH_GENERATION = {RUNS, "jobs"}


def now(later: float = 0.0) -> str:
    return (datetime.now(UTC) + timedelta(seconds=later)).strftime("%Y-%m-%dT%H:%M:%SZ")


def copied(body: Any) -> Any:
    return json.loads(json.dumps(body))


def merged(old: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, Mapping):
        return patch
    new = dict(old) if isinstance(old, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            new.pop(name, None)
        else:
            new[name] = merged(new.get(name), value)
    return new


def refusal(status: int, reason: str, message: str) -> kmock.KubernetesError:
    return kmock.KubernetesError(status=status, reason=reason, message=message)


class Objects:
    """All objects, and the log of what happened to them, from which every watch reads."""

    def __init__(self) -> None:
        self.bodies: dict[Place, Body] = {}
        self.log: list[tuple[int, str, str, Body]] = []
        """Version, type, plural and body."""
        self.closed = False
        self.forbidden: set[str] = set()
        """Plurals of which a quota leaves none."""
        self.late: set[str] = set()
        """Plurals whose watches show nothing new while they are here."""
        self._news = asyncio.Event()
        self.guards: list[Callable[[str, Body, Body | None], None]] = [_crd_guard, _job_guard]
        """Refuse what an API server would: plural, new and old body."""

    @property
    def version(self) -> int:
        return self.log[-1][0] if self.log else 1

    def get(self, place: Place) -> Body:
        if place not in self.bodies:
            raise refusal(404, "NotFound", f'{place[0]} "{place[2]}" not found')
        return self.bodies[place]

    def list(self, plural: str, namespace: str = "", selector: str = "") -> list[Body]:
        found = [body for (kind, space, _), body in self.bodies.items() if kind == plural and namespace in ("", space)]
        return [body for body in found if selects(selector, body)]

    def _generated(self, plural: str, namespace: str, prefix: str) -> str:
        """A free name: as the API server does, a suffix that is taken is drawn again."""
        while (plural, namespace, name := f"{prefix}{uuid.uuid4().hex[:5]}") in self.bodies:
            pass
        return name

    def create(self, plural: str, namespace: str, body: Body) -> Body:
        body, metadata = copied(body), copied(body["metadata"])
        name = metadata.get("name") or self._generated(plural, namespace, metadata["generateName"])
        if (plural, namespace, name) in self.bodies:
            raise refusal(409, "AlreadyExists", f'{plural} "{name}" already exists')
        if plural in self.forbidden:
            raise refusal(403, "Forbidden", f'{plural} "{name}" is forbidden: exceeded quota: none')
        metadata |= {"name": name, "namespace": namespace, "uid": str(uuid.uuid4()), "creationTimestamp": now()}
        if plural in WITH_GENERATION:
            metadata["generation"] = 1
        if plural in WITH_STATUS:
            body["status"] = {}
        if plural == RUNS:  # what is created has no status of its own, whatever was sent
            del body["status"]
            body = admitted(SCHEMA, body)
        return self._commit("ADDED", plural, body | {"metadata": metadata})

    def write(self, place: Place, new: Body, *, status: bool = False) -> Body:
        """Replace an object, or its status alone; with the version that it was seen at, only if it is still that."""
        old = self.get(place)
        for field in ("uid", "resourceVersion"):
            if new["metadata"].get(field) not in (None, old["metadata"][field]):
                raise refusal(409, "Conflict", f"the {field} of {place[2]} is {old['metadata'][field]}")
        kept = {name: old["metadata"][name] for name in ("uid", "creationTimestamp", "name", "namespace")}
        if status:
            new = old | {"status": new.get("status") or {}}
        else:
            new = {**new, "metadata": {**new["metadata"], **kept}}
            if place[0] in WITH_STATUS:
                new["status"] = old.get("status") or {}
        if place[0] == RUNS:
            new = admitted(SCHEMA, new)
        metadata = {**new["metadata"], "resourceVersion": old["metadata"]["resourceVersion"]}
        if place[0] in WITH_GENERATION:
            metadata["generation"] = old["metadata"]["generation"] + (new["spec"] != old["spec"])
        new = {**new, "metadata": metadata}
        return old if new == old else self._commit("MODIFIED", place[0], new)

    def delete(
        self, place: Place, *, uid: str | None = None, foreground: bool = False, grace: float | None = None
    ) -> Body:
        """Remove an object; one that has to end first is marked, and removed by whoever ends it."""
        old = self.get(place)
        if uid is not None and uid != old["metadata"]["uid"]:
            raise refusal(409, "Conflict", f"the uid of {place[2]} is {old['metadata']['uid']}")
        over = (old.get("status") or {}).get("phase") in ("Succeeded", "Failed")
        lives = place[0] == "pods" and old["spec"].get("nodeName") and grace != 0 and not over
        held = place[0] == "pods" and old["spec"].get("nodeName") and not over and self._held_by_job(old)
        if held and grace == 0:  # as by the finalizer of the Job controller, with the replacement policy Failed
            marked = {**old["metadata"], "deletionTimestamp": now(0), "deletionGracePeriodSeconds": 0}
            return self._commit("MODIFIED", place[0], {**old, "metadata": marked})
        if not (lives or foreground):
            del self.bodies[place]
            return self._commit("DELETED", place[0], old, keep=False)
        if "deletionTimestamp" in old["metadata"]:
            return old
        wait = old["spec"].get("terminationGracePeriodSeconds", 30) if lives else 0
        marked = {**old["metadata"], "deletionTimestamp": now(wait), "deletionGracePeriodSeconds": wait}
        return self._commit("MODIFIED", place[0], {**old, "metadata": marked})

    def _held_by_job(self, pod: Body) -> bool:
        """The Job that controls a pod exists and is to stay."""
        owner = next((one for one in pod["metadata"].get("ownerReferences", ()) if one.get("controller")), None)
        job = self.bodies.get(("jobs", pod["metadata"]["namespace"], owner["name"])) if owner is not None else None
        return (
            job is not None
            and owner is not None
            and job["metadata"]["uid"] == owner["uid"]
            and ("deletionTimestamp" not in job["metadata"])
        )

    async def watch(self, plural: str, namespace: str, selector: str, since: int) -> AsyncIterator[Body]:
        at = next((i for i, (version, *_) in enumerate(self.log) if version > since), len(self.log))
        while not self.closed:
            news = self._news
            while at < len(self.log) and plural not in self.late:
                _, kind, changed, body = self.log[at]
                at += 1
                if changed == plural and namespace in ("", body["metadata"]["namespace"]) and selects(selector, body):
                    yield {"type": kind, "object": body}
            await news.wait()

    async def change(self, since: int) -> None:
        """Wait until something is newer than a version."""
        while not self.closed and self.version <= since:
            await self._news.wait()

    def close(self) -> None:
        self.closed = True
        self.wake()

    def wake(self) -> None:
        """Let all that wait look again."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _commit(self, kind: str, plural: str, body: Body, *, keep: bool = True) -> Body:
        metadata = {**body["metadata"], "resourceVersion": str(self.version + 1)}
        body = {**body, "metadata": metadata}
        place = (plural, metadata["namespace"], metadata["name"])
        if keep:
            for guard in self.guards:
                guard(plural, body, self.bodies.get(place))
            self.bodies[place] = body
        self.log.append((self.version + 1, kind, plural, body))
        self.wake()
        return body


def selects(selector: str, body: Body) -> bool:
    labels = body["metadata"].get("labels") or {}
    return all(
        labels.get(name) == value for name, _, value in (part.partition("=") for part in selector.split(",") if part)
    )


def _crd_guard(plural: str, body: Body, _: Body | None) -> None:
    if plural != RUNS:
        return
    fault = next(VALIDATOR.iter_errors(body), None)
    if fault is not None:
        where = ".".join(str(part) for part in fault.absolute_path)
        raise refusal(422, "Invalid", f"TeacherFineTune is invalid: {where}: {fault.message}")


def _job_guard(plural: str, body: Body, old: Body | None) -> None:
    if plural == "jobs" and old is not None and body["spec"]["template"] != old["spec"]["template"]:
        raise refusal(422, "Invalid", "Job is invalid: spec.template: Invalid value: field is immutable")


def label_policy(name: str, label: str) -> Callable[[str, Body, Body | None], None]:
    """A guard in the words of a ValidatingAdmissionPolicy: Jobs and pods are made with a label only."""

    def guard(plural: str, body: Body, old: Body | None) -> None:
        if plural in ("jobs", "pods") and old is None and label not in (body["metadata"].get("labels") or {}):
            made = f"{plural} {body['metadata']['name']!r} is forbidden"
            policy = f"ValidatingAdmissionPolicy '{name}' with binding '{name}' denied request"
            raise refusal(422, "Invalid", f"{made}: {policy}: label {label} is required")

    return guard


@attrs.define(kw_only=True)
class MemoryApi(kmock.KubernetesScaffold):
    """The API server. ``refuse`` is asked before a request is served, ``lose`` before its answer is sent."""

    objects: Objects = attrs.field(factory=Objects)
    logs: dict[tuple[str, str], list[str]] = attrs.field(factory=dict)
    refuse: Callable[[kmock.Request], Exception | None] = lambda _: None
    lose: Callable[[kmock.Request], object] = lambda _: None

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        for resource, kind in KINDS.items():
            self.resources[resource] = {"kind": kind, "verbs": VERBS, "namespaced": True, "singular": kind.lower()}
        for resource in ("v1/namespaces", "apiextensions.k8s.io/v1/customresourcedefinitions"):
            self.resources[resource] = {"verbs": VERBS, "namespaced": False}  # kopf waits until it has seen them

    async def _handle(self, request: kmock.Request) -> aiohttp.web.StreamResponse:
        if request.resource is None or request.resource.plural is None:
            return await super()._handle(request)
        refused = self.refuse(request)
        if refused is not None:
            raise refused
        answer = self._answer(request)
        if self.lose(request):
            raise refusal(503, "ServiceUnavailable", "the answer is lost")
        return await kmock.Response(payload=answer)(request)

    def _answer(self, request: kmock.Request) -> Any:
        assert request.resource is not None
        plural, namespace, name = request.resource.plural, request.namespace or "", request.name or ""
        place, query, sub = (plural, namespace, name), request.params, request.subresource
        selector = query.get("labelSelector", "")
        match request.method:
            case kmock.method.GET if query.get("watch") == "true":
                since = int(query.get("resourceVersion") or self.objects.version)
                return _streamed(self.objects.watch(plural, namespace, selector, since))
            case kmock.method.GET if sub == "log":
                return "\n".join(self.logs.get((namespace, name), ())[-int(query.get("tailLines", 1000)) :]).encode()
            case kmock.method.GET if not name:
                found = [one for one in self.objects.list(plural, namespace, selector) if _in_fields(query, one)]
                return {"kind": "List", "metadata": {"resourceVersion": str(self.objects.version)}, "items": found}
            case kmock.method.GET:
                return self.objects.get(place)
            case kmock.method.POST if sub == "binding":
                return self._bind(place, request.data["target"]["name"])
            case kmock.method.POST if query.get("dryRun"):
                for guard in self.objects.guards:
                    guard(plural, request.data, None)
                return request.data
            case kmock.method.POST:
                return self.objects.create(plural, namespace, request.data)
            case kmock.method.PUT:
                return self.objects.write(place, request.data, status=sub == "status")
            case kmock.method.PATCH:
                return self._patch(place, request, status=sub == "status")
            case kmock.method.DELETE:
                options = request.data or {}
                return self.objects.delete(
                    place,
                    uid=(options.get("preconditions") or {}).get("uid"),
                    foreground=options.get("propagationPolicy") == "Foreground",
                    grace=options.get("gracePeriodSeconds"),
                )
        raise refusal(405, "MethodNotAllowed", f"{request.method} of {plural}")

    def _patch(self, place: Place, request: kmock.Request, *, status: bool) -> Body:
        applied = request.headers["Content-Type"] == "application/apply-patch+yaml"
        if applied and place not in self.objects.bodies:
            return self.objects.create(place[0], place[1], request.data)
        old = self.objects.get(place)
        if not applied:  # what a patch does not say of the version, it does not ask for
            said = request.data.get("metadata") or {}
            seen = {name: said.get(name) for name in ("uid", "resourceVersion")}
            new = merged(old, request.data)
            return self.objects.write(place, {**new, "metadata": {**new["metadata"], **seen}}, status=status)
        new = merged(old, request.data)
        return self.objects.write(place, {**new, "metadata": {**new["metadata"], "resourceVersion": None}})

    def _bind(self, place: Place, node: str) -> Body:
        pod = copied(self.objects.get(place))
        pod["spec"]["nodeName"] = node
        self.objects.write(place, pod)
        scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": now()}
        others = [one for one in pod["status"].get("conditions", ()) if one["type"] != "PodScheduled"]
        return self.objects.write(
            place,
            {**self.objects.get(place), "status": {**pod["status"], "conditions": [*others, scheduled]}},
            status=True,
        )


async def _streamed(events: AsyncIterator[Body]) -> AsyncIterator[bytes]:
    yield b"\n"  # the answer begins before the first event
    async for event in events:
        yield json.dumps(event).encode() + b"\n"


def _in_fields(query: Mapping[str, str], body: Body) -> bool:
    for part in filter(None, query.get("fieldSelector", "").split(",")):
        path, _, wanted = part.partition("=")
        value: Any = body
        for step in path.split("."):
            value = (value or {}).get(step)
        if value != wanted:
            return False
    return True

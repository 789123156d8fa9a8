"""One object at a time: look at what is there, decide, do it, write the status. All effects of a decision are here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError

from teacher_operator.api.names import FIELD_MANAGER, Key, owner_uid, stage_of
from teacher_operator.api.settings import Settings
from teacher_operator.api.spec import API_VERSION, KIND
from teacher_operator.api.status import FailureStatus, StageStatus, TeacherFineTuneStatus, TeacherStatus, clip
from teacher_operator.api.timestamps import timestamp
from teacher_operator.decide.actions import Todo
from teacher_operator.decide.conditions import (
    NAME_TAKEN,
    SUCCEEDED,
    EventNote,
    Summary,
    events,
    is_terminal,
    with_conditions,
)
from teacher_operator.decide.run import Decision, decide, read_status
from teacher_operator.decide.sidecars import job_view
from teacher_operator.decide.stage_context import Observed
from teacher_operator.decide.stage_status import runs
from teacher_operator.runtime.cluster import ApiError, Cluster
from teacher_operator.runtime.lookups import Looks
from teacher_operator.runtime.metrics import Metrics
from teacher_operator.runtime.store import Store, key_of

Body = Mapping[str, Any]

ROUNDS = 6
"""Of looking and deciding anew in one go: more would be a loop."""

DENIED = ("denied request:", "denied the request")
"""In the messages of a ValidatingAdmissionPolicy and of an admission webhook, whose codes are theirs to choose."""

UNREADABLE = "cannot be handled as a"
"""In the answer (400) to an object with an unknown field or a wrong type, such as a typing error in an affinity."""

NAMESPACE_GOING = "is being terminated"
"""In the refusal of whatever would be made in a namespace that is being deleted."""

EVENT_SECONDS = 300.0
"""The same event is told of an object once in this time."""

logger = logging.getLogger(__name__)


class Reconciler:
    """Brings objects to where they should be.

    Args:
        cluster: The API server.
        store: What the watches have shown.
        looks: Logs and events that are read when they are needed.
        settings: Of the operator.
        metrics: Are told of what has happened.
    """

    def __init__(self, cluster: Cluster, store: Store, looks: Looks, settings: Settings, metrics: Metrics) -> None:
        self.cluster = cluster
        self.store = store
        self.looks = looks
        self.settings = settings
        self.metrics = metrics
        self._written: dict[Key, float] = {}
        """When the status was last written."""
        self._told: dict[Key, dict[str, float]] = {}
        """When an event was last told, by its reason and what it is about."""

    async def reconcile(self, key: Key) -> float | None:
        """Do what is to be done now.

        Returns:
            Seconds until there is more to do, or None.

        Raises:
            ApiError: Something could not be done: it is to be tried again.
        """
        body = self.store.get("TeacherFineTune", key)
        if body is None or body["metadata"].get("deletionTimestamp"):
            self._forget(key)
            return None
        refused: dict[str, FailureStatus] = {}
        error: ApiError | None = None
        for _ in range(ROUNDS):
            decision = self._decide(body, refused)
            if decision.todo.looks and await self.looks.look(key, decision.todo.looks):
                continue
            if decision.todo.apply:
                fresh = await self.cluster.get("TeacherFineTune", key)
                if fresh is None or fresh["metadata"]["uid"] != body["metadata"]["uid"]:
                    self.store.remove("TeacherFineTune", body)
                    return None
                if self.store.put("TeacherFineTune", fresh):
                    body = self.store.get("TeacherFineTune", key) or body
                    continue  # the object has changed meanwhile: what was decided may be wrong
            before = len(refused)
            error = await self._do(body, decision.todo, refused) or error
            jobs = (key_of(child) for child in decision.todo.apply if child["kind"] == "Job")
            made = any(self.store.has("Job", key) for key in jobs)
            if len(refused) == before and not made:  # else there is more to tell, in the same status
                break
        else:
            return 1.0
        again = await self._write(body, decision.status)
        if decision.todo.announced and again is None:
            again = 0.0
        if error is not None and decision.todo.retry:
            raise error
        if decision.todo.again_at is not None:
            due = max(0.5, decision.todo.again_at - time.time())
            again = due if again is None else min(due, again)
        return again

    def _decide(self, body: Body, refused: Mapping[str, FailureStatus]) -> Decision:
        """What is to be done; a fault of our own is told in the status too."""
        try:
            return decide(body, self._observed(body, refused), self.settings, now=time.time())
        except Exception as error:
            logger.exception("deciding failed; this should not happen", extra=about(body))
            return Decision(_broken(body, f"{type(error).__name__}: {error}"), Todo())

    def _observed(self, body: Body, refused: Mapping[str, FailureStatus]) -> Observed:
        children, jobs = self.store.jobs_of(body), {}
        for job in children:
            stage = stage_of(job["metadata"].get("labels") or {})
            if stage is not None:
                jobs[stage.name] = self.looks.complete(job_view(job, self.store.pods_of(job)))
        return Observed(jobs=jobs, refused=refused, orphans=self.store.orphans_of(body, children))

    async def _do(self, body: Body, todo: Todo, refused: dict[str, FailureStatus]) -> ApiError | None:
        """Change children; what was refused is noted, so that the status can say so."""
        namespace = body["metadata"]["namespace"]
        for name in todo.delete:
            await self._delete(Key(namespace, name))
        for name, patch in todo.patch:
            self.store.put("Job", await self.cluster.patch_job(Key(namespace, name), patch))
        for manifest in todo.replace:
            name = manifest["metadata"]["name"]
            try:  # what runs is only given up for what the API server would take
                trial = {**manifest, "metadata": {**manifest["metadata"], "name": f"{name}-x"}}
                await self.cluster.create_dry("Job", namespace, trial)
            except ApiError as error:
                if not (_is_final(error) or _is_denied(error)):
                    raise
                refused[name] = _refusal(manifest, error)
                return error
            await self._delete(Key(namespace, name))
        for manifest in todo.apply:
            try:
                made = await self._make(body, manifest)
            except NameTakenError as error:
                failure = FailureStatus(reason=NAME_TAKEN, message=str(error))
                refused[manifest["metadata"]["name"]] = failure
                return ApiError(HTTPStatus.CONFLICT, str(error))
            except ApiError as error:
                if error.code == HTTPStatus.FORBIDDEN and NAMESPACE_GOING in str(error):
                    return None  # the object goes with it
                name = manifest["metadata"]["name"]
                refused[name] = _refusal(manifest, error)
                return error
            if manifest["kind"] == "Job":
                self.store.put("Job", made)
        return None

    async def _delete(self, key: Key) -> None:
        job = self.store.get("Job", key)
        if job is not None:
            await self.cluster.delete_job(key, job["metadata"]["uid"])

    async def _make(self, body: Body, manifest: Body) -> Body:
        """Create a child, or keep the existing one of its name if this very object owns it.

        Only if the name is in use, the owner is read: a new object costs one request for each child.

        Raises:
            NameTakenError: The existing one has another owner. Applied over, it would become ours, and be deleted
                together with the object.
        """
        kind, name, namespace = manifest["kind"], manifest["metadata"]["name"], manifest["metadata"]["namespace"]
        try:
            return await self.cluster.create(kind, namespace, manifest)
        except ApiError as error:
            existing = await self.cluster.get(kind, key_of(manifest)) if error.code == HTTPStatus.CONFLICT else None
            if existing is None:
                raise
        if owner_uid(existing) != body["metadata"]["uid"]:
            whose = "an earlier object of this name" if owner_uid(existing) else "somebody else"
            raise NameTakenError(f"there is a {kind} {name} of {whose}: it is waited for until it is gone")
        if kind == "Job":  # its template cannot change; what can, the next decision compares
            labels = manifest["metadata"]["labels"]
            found = existing["metadata"].get("labels") or {}
            if labels.items() <= found.items():
                return existing
            patch = {"metadata": {"uid": existing["metadata"]["uid"], "labels": labels}}
            return await self.cluster.patch_job(key_of(manifest), patch)
        seen = {"resourceVersion": existing["metadata"]["resourceVersion"]}
        return await self.cluster.apply({**manifest, "metadata": {**manifest["metadata"], **seen}})

    async def _write(self, body: Body, status: TeacherFineTuneStatus) -> float | None:
        """Write the status if it says something new; mere progress only so often."""
        key, before = key_of(body), read_status(body)
        if status == before:
            return None
        waited = time.monotonic() - self._written.get(key, float("-inf"))
        if waited < self.settings.progress_seconds and _essence(status) == _essence(before):
            moves = any(map(runs, (*status.stages, *status.teachers)))
            return self.settings.progress_seconds - waited if moves else None
        try:
            TeacherFineTuneStatus.model_validate(status.model_dump())
        except ValidationError as error:
            logger.error("the status cannot be told; this should not happen: %s", error, extra=about(body))
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            status = _broken(body, f"the status cannot be told: {where}")
        data = status.model_dump(mode="json", by_alias=True, exclude_none=True)
        aliases = {field.alias or name for name, field in TeacherFineTuneStatus.model_fields.items()}
        nothing = dict.fromkeys(aliases - set(data))
        try:
            written = await self.cluster.patch_status(body, data | nothing)
        except ApiError as error:
            if error.code == HTTPStatus.NOT_FOUND:
                return None
            if error.code == HTTPStatus.CONFLICT:  # somebody was faster: look again at once
                fresh = await self.cluster.get("TeacherFineTune", key)
                if fresh is not None:
                    self.store.put("TeacherFineTune", fresh)
                return 0.0
            raise
        self._written[key] = time.monotonic()
        self.store.put("TeacherFineTune", written)
        self.metrics.transition(written, before, status)
        notes = list(events(before, status))
        if notes:
            await asyncio.gather(*(self._tell(body, note) for note in notes))
        if is_terminal(status):
            self._forget(key)
        return None

    async def _tell(self, body: Body, note: EventNote) -> None:
        """Post an event, unless the same was told of late. An event that is refused is not worth a retry."""
        key, now = key_of(body), time.time()
        told, about_what = self._told.setdefault(key, {}), f"{note.reason} {note.message.partition(':')[0]}"
        if note.reason == SUCCEEDED:  # a teacher's end, or with the same words before the colon that of the run
            about_what = note.message
        if now - told.get(about_what, 0.0) < EVENT_SECONDS and note.kind == "Normal":
            return
        told[about_what] = now
        level = logging.WARNING if note.kind == "Warning" else logging.INFO
        logger.log(level, "%s: %s", note.reason, note.message, extra=about(body))
        metadata = body["metadata"]
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{metadata['name']}.", "namespace": metadata["namespace"]},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
            },
            "type": note.kind,
            "reason": note.reason,
            "message": note.message[:1000],
            "source": {"component": FIELD_MANAGER},
            "reportingComponent": FIELD_MANAGER,
            "reportingInstance": self.settings.pod_name,
            "action": "Reconcile",
            "firstTimestamp": timestamp(now),
            "lastTimestamp": timestamp(now),
            "count": 1,
        }
        with contextlib.suppress(ApiError):
            await self.cluster.create("Event", metadata["namespace"], event)

    def _forget(self, key: Key) -> None:
        self._written.pop(key, None)
        self._told.pop(key, None)


class NameTakenError(Exception):
    """A child's name belongs to somebody else."""


def _is_final(error: ApiError) -> bool:
    """Nothing but another spec could help: the object is invalid, or has a field that its kind has not."""
    return not _is_denied(error) and (
        error.code == HTTPStatus.UNPROCESSABLE_ENTITY
        or (error.code == HTTPStatus.BAD_REQUEST and UNREADABLE in str(error))
    )


def _is_denied(error: ApiError) -> bool:
    """A policy of the cluster denies it, with any code: labels of the pods, or the policy, may change."""
    return any(words in str(error) for words in DENIED)


def _refusal(manifest: Body, error: ApiError) -> FailureStatus:
    """Why a child was refused, for good or for now."""
    child = f"{manifest['kind']} {manifest['metadata']['name']}"
    if _is_final(error):
        return FailureStatus(reason="ChildRefused", message=clip(f"{child} is refused: {error}"))
    if error.code == HTTPStatus.FORBIDDEN or _is_denied(error):
        return FailureStatus(reason="Forbidden", message=clip(f"{child} may not be made: {error}"))
    return FailureStatus(reason="ApiError", message=clip(f"{child} cannot be made now: {error}"))


def _broken(body: Body, fault: str) -> TeacherFineTuneStatus:
    """The status as it was, with the word that the operator itself is at fault."""
    summary = Summary.stuck(
        "InternalError", clip(f"a fault of the operator's own, which its log tells more of: {fault}")
    )
    return with_conditions(
        read_status(body), summary, generation=body["metadata"].get("generation") or 0, now=time.time()
    )


def about(body: Body) -> dict[str, str]:
    """What a log line says of the object that it is about."""
    key, run = key_of(body), (body.get("status") or {}).get("runId") or ""
    return {"namespace": key.namespace, "object": key.name, "run": run}


def _essence(status: TeacherFineTuneStatus) -> TeacherFineTuneStatus:
    """Return the status without what changes all the time while a stage runs."""
    running = any(map(runs, (*status.stages, *status.teachers)))
    conditions = [one.model_copy(update={"message": ""}) if running else one for one in status.conditions]
    summary = status.summary.model_copy(update={"progress": "", "time_left": "", "map": ""})
    return status.model_copy(
        update={
            "stages": list(map(_stage_essence, status.stages)),
            "teachers": list(map(_stage_essence, status.teachers)),
            "conditions": conditions,
            "summary": summary,
            "gpu_seconds": 0,
        }
    )


def _stage_essence(stage: StageStatus) -> StageStatus:
    moving: dict[str, Any] = {"progress": None, "message": ""} if runs(stage) else {}
    if moving and isinstance(stage, TeacherStatus):
        moving["metrics"] = []
    attempts = [one.model_copy(update={"gpu_seconds": 0}) for one in stage.attempts]
    return stage.model_copy(update={**moving, "gpu_seconds": 0, "gpu_seconds_until": None, "attempts": attempts})

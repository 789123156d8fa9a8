"""Writing of the status of objects, and events for its changes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError

from teacher_operator.api.names import FIELD_MANAGER, Key
from teacher_operator.api.settings import Settings
from teacher_operator.api.spec import API_VERSION, KIND
from teacher_operator.api.status import StageStatus, TeacherFineTuneStatus, TeacherStatus, clip
from teacher_operator.api.timestamps import timestamp
from teacher_operator.decide.conditions import SUCCEEDED, RunEvent, Summary, events, is_terminal, with_conditions
from teacher_operator.decide.run import read_status
from teacher_operator.decide.stage_status import runs
from teacher_operator.runtime.cluster import ApiError, Cluster
from teacher_operator.runtime.metrics import Metrics
from teacher_operator.runtime.store import Store, key_of

Body = Mapping[str, Any]

EVENT_SECONDS = 300.0
"""Seconds in which the same event of an object is posted only once."""

logger = logging.getLogger(__name__)


class StatusWriter:
    """Writes status and events.

    Args:
        cluster: The API server.
        store: Watched state.
        settings: Settings of the installation.
        metrics: Counts the transitions.
    """

    def __init__(self, cluster: Cluster, store: Store, settings: Settings, metrics: Metrics) -> None:
        self.cluster = cluster
        self.store = store
        self.settings = settings
        self.metrics = metrics
        self._written: dict[Key, float] = {}
        """Time of the last write of the status, on the monotonic clock in seconds, by object."""
        self._posted: dict[Key, dict[str, float]] = {}
        """Time of the last post of an event, in seconds since the epoch, by object and by reason and subject."""

    async def write(self, body: Body, status: TeacherFineTuneStatus) -> float | None:
        """Write the status if it has changed; mere progress at most every ``progress_seconds``.

        Returns:
            Seconds until the status must be written again; None: when it changes.
        """
        key, before = key_of(body), read_status(body)
        if status == before:
            return None
        waited = time.monotonic() - self._written.get(key, float("-inf"))
        if waited < self.settings.progress_seconds and without_progress(status) == without_progress(before):
            moves = any(map(runs, (*status.stages, *status.teachers)))
            return self.settings.progress_seconds - waited if moves else None
        try:
            TeacherFineTuneStatus.model_validate(status.model_dump())
        except ValidationError as error:
            logger.error("the status is invalid; this should not happen: %s", error, extra=log_context(body))
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            status = broken_status(body, f"the status is invalid: {where}")
        data = status.model_dump(mode="json", by_alias=True, exclude_none=True)
        aliases = {field.alias or name for name, field in TeacherFineTuneStatus.model_fields.items()}
        nothing = dict.fromkeys(aliases - set(data))
        try:
            written = await self.cluster.patch_status(body, data | nothing)
        except ApiError as error:
            if error.code == HTTPStatus.NOT_FOUND:
                return None
            if error.code == HTTPStatus.CONFLICT:  # another client was faster: reconcile again immediately
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
            await asyncio.gather(*(self._post_event(body, note) for note in notes))
        if is_terminal(status):
            self.forget(key)
        return None

    async def _post_event(self, body: Body, note: RunEvent) -> None:
        """Post an event, unless the same was posted recently. A refused event is not retried."""
        key, now = key_of(body), time.time()
        posted, subject = self._posted.setdefault(key, {}), f"{note.reason} {note.message.partition(':')[0]}"
        if note.reason == SUCCEEDED:  # the ends of a teacher and of the run have the same text before the colon
            subject = note.message
        if now - posted.get(subject, 0.0) < EVENT_SECONDS and note.kind == "Normal":
            return
        posted[subject] = now
        level = logging.WARNING if note.kind == "Warning" else logging.INFO
        logger.log(level, "%s: %s", note.reason, note.message, extra=log_context(body))
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

    def forget(self, key: Key) -> None:
        """Remove the state of an object that was deleted or has ended."""
        self._written.pop(key, None)
        self._posted.pop(key, None)


def broken_status(body: Body, fault: str) -> TeacherFineTuneStatus:
    """Return the unchanged status of an object with the reason InternalError."""
    summary = Summary.stuck("InternalError", clip(f"internal error of the operator; its log has the details: {fault}"))
    return with_conditions(
        read_status(body), summary, generation=body["metadata"].get("generation") or 0, now=time.time()
    )


def log_context(body: Body) -> dict[str, str]:
    """Return the fields of log lines that identify an object."""
    key, run = key_of(body), (body.get("status") or {}).get("runId") or ""
    return {"namespace": key.namespace, "object": key.name, "run": run}


def without_progress(status: TeacherFineTuneStatus) -> TeacherFineTuneStatus:
    """Return the status without the fields that change continuously while a stage runs."""
    running = any(map(runs, (*status.stages, *status.teachers)))
    conditions = [one.model_copy(update={"message": ""}) if running else one for one in status.conditions]
    summary = status.summary.model_copy(update={"progress": "", "time_left": "", "map": ""})
    return status.model_copy(
        update={
            "stages": list(map(_stage_without_progress, status.stages)),
            "teachers": list(map(_stage_without_progress, status.teachers)),
            "conditions": conditions,
            "summary": summary,
            "gpu_seconds": 0,
        }
    )


def _stage_without_progress(stage: StageStatus) -> StageStatus:
    moving: dict[str, Any] = {"progress": None, "message": ""} if runs(stage) else {}
    if moving and isinstance(stage, TeacherStatus):
        moving["metrics"] = []
    attempts = [one.model_copy(update={"gpu_seconds": 0}) for one in stage.attempts]
    return stage.model_copy(update={**moving, "gpu_seconds": 0, "gpu_seconds_until": None, "attempts": attempts})

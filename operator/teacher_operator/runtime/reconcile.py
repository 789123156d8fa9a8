"""Reconciles one object at a time: observe, decide, execute the actions, write the status."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from teacher_operator.api.names import Key, stage_of
from teacher_operator.api.settings import Settings
from teacher_operator.api.status import FailureStatus
from teacher_operator.decide.actions import Actions
from teacher_operator.decide.run import Decision, decide
from teacher_operator.decide.sidecars import job_view
from teacher_operator.decide.stage_context import Observed
from teacher_operator.runtime.children import Children
from teacher_operator.runtime.cluster import ApiError, Cluster
from teacher_operator.runtime.lookups import Lookups
from teacher_operator.runtime.metrics import Metrics
from teacher_operator.runtime.status_writer import StatusWriter, broken_status, log_context
from teacher_operator.runtime.store import Store, key_of

Body = Mapping[str, Any]

ROUNDS = 6
"""Maximum number of decisions in one reconciliation, which prevents an endless loop."""

logger = logging.getLogger(__name__)


class Reconciler:
    """Reconciles objects.

    Args:
        cluster: The API server.
        store: Objects shown by the watches.
        lookups: Logs and events that are read on demand.
        settings: Settings of the installation.
        metrics: Counts the transitions.
    """

    def __init__(self, cluster: Cluster, store: Store, lookups: Lookups, settings: Settings, metrics: Metrics) -> None:
        self.cluster = cluster
        self.store = store
        self.lookups = lookups
        self.settings = settings
        self.children = Children(cluster, store)
        self.writer = StatusWriter(cluster, store, settings, metrics)

    async def reconcile(self, key: Key) -> float | None:
        """Decide on an object, execute the actions and write the status.

        Returns:
            Seconds until the next reconciliation; None: when an object changes.

        Raises:
            ApiError: An action has failed and must be retried.
        """
        body = self.store.get("TeacherFineTune", key)
        if body is None or body["metadata"].get("deletionTimestamp"):
            self.writer.forget(key)
            return None
        refused: dict[str, FailureStatus] = {}
        error: ApiError | None = None
        for _ in range(ROUNDS):
            decision = self._decide(body, refused)
            if decision.actions.lookups and await self.lookups.read(key, decision.actions.lookups):
                continue
            if decision.actions.apply:
                fresh = await self.cluster.get("TeacherFineTune", key)
                if fresh is None or fresh["metadata"]["uid"] != body["metadata"]["uid"]:
                    self.store.remove("TeacherFineTune", body)
                    return None
                if self.store.put("TeacherFineTune", fresh):
                    body = self.store.get("TeacherFineTune", key) or body
                    continue  # the object has changed since: decide again
            before = len(refused)
            error = await self.children.change(body, decision.actions, refused) or error
            jobs = (key_of(child) for child in decision.actions.apply if child["kind"] == "Job")
            made = any(self.store.has("Job", key) for key in jobs)
            if len(refused) == before and not made:  # else decide again, so that one write of the status has all of it
                break
        else:
            return 1.0
        again = await self.writer.write(body, decision.status)
        if decision.actions.requeue_after_write and again is None:
            again = 0.0
        if error is not None and decision.actions.retry:
            raise error
        if decision.actions.requeue_at is not None:
            due = max(0.5, decision.actions.requeue_at - time.time())
            again = due if again is None else min(due, again)
        return again

    def _decide(self, body: Body, refused: Mapping[str, FailureStatus]) -> Decision:
        """Return the decision on an object; an internal error becomes its status."""
        try:
            return decide(body, self._observed(body, refused), self.settings, now=time.time())
        except Exception as error:
            logger.exception("deciding failed; this should not happen", extra=log_context(body))
            return Decision(broken_status(body, f"{type(error).__name__}: {error}"), Actions())

    def _observed(self, body: Body, refused: Mapping[str, FailureStatus]) -> Observed:
        children, jobs = self.store.jobs_of(body), {}
        for job in children:
            stage = stage_of(job["metadata"].get("labels") or {})
            if stage is not None:
                jobs[stage.name] = self.lookups.complete(job_view(job, self.store.pods_of(job)))
        return Observed(jobs=jobs, refused=refused, orphans=self.store.orphans_of(body, children))

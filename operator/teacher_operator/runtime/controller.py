"""The running operator, apart from kopf: workers that reconcile keys from a queue, and their supervision."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from aiohttp import web

from teacher_operator.api.names import Key, run_of
from teacher_operator.api.settings import Settings
from teacher_operator.runtime.cluster import ApiError, Cluster, connect
from teacher_operator.runtime.lease import Leadership
from teacher_operator.runtime.lookups import Lookups
from teacher_operator.runtime.metrics import Metrics, standing_of
from teacher_operator.runtime.metrics_access import MetricsAccess
from teacher_operator.runtime.reconcile import Reconciler
from teacher_operator.runtime.server import serve
from teacher_operator.runtime.status_writer import log_context
from teacher_operator.runtime.store import KINDS, Store, key_of, version
from teacher_operator.runtime.workqueue import WorkQueue

STUCK_SECONDS = 300.0
"""Seconds that one reconciliation never takes: every request has a time limit."""

RESYNC_MISSES = 3
"""Consecutive failures of a full resync after which the operator is unhealthy."""

LIST_RETRY_SECONDS = 2.0

END_SECONDS = 5.0
"""Seconds for tasks to end, before they are cancelled again."""

SETTLE_SECONDS = 5.0
"""Seconds from the initial list of a reopened watch until a full resync: the watch does not show objects deleted just
before it."""

logger = logging.getLogger("teacher_operator")


class Controller:
    """Everything that runs apart from the watches.

    Args:
        cluster: The API server.
        settings: Settings of the operator.
    """

    def __init__(self, cluster: Cluster, settings: Settings, metrics: Metrics, store: Store) -> None:
        self.cluster, self.settings, self.metrics, self.store = cluster, settings, metrics, store
        self.queue: WorkQueue[Key] = WorkQueue()
        self.lookups = Lookups(cluster, store, self.queue, settings)
        self.reconciler = Reconciler(cluster, store, self.lookups, settings, metrics)
        lease = Key(settings.pod_namespace, settings.lease_name)
        self.leadership = Leadership(cluster, lease, settings.pod_name)
        self.runner: web.AppRunner | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._resynced = time.monotonic()
        self._seen: dict[str, float] = {}
        self._listed = False
        self._opened = float("inf")
        """Time of the last initial list of a reopened watch, if no full resync followed."""

    @classmethod
    async def start(cls, settings: Settings) -> Controller:
        """Connect, reconcile all objects, and start everything except the watches."""
        store = Store(standing_of(settings.metrics_label))
        metrics = Metrics(store, settings.metrics_label)
        self = cls(Cluster(await connect(), metrics.request), settings, metrics, store)
        metrics.queue_depth.set_function(lambda: len(self.queue))
        metrics.leader.set_function(lambda: float(self.leadership.held.is_set()))
        self.runner = await serve(
            settings.port,
            metrics=metrics,
            alive=self.alive,
            ready=self.ready,
            access=MetricsAccess(self.cluster) if settings.metrics_authentication else None,
            tls=Path(settings.metrics_tls) if settings.metrics_tls else None,
        )
        if not settings.leader_election:
            self.leadership.held.set()
        else:
            self._spawn(self.leadership.run())
        await self._list_first()
        self._spawn(self.queue.run_timer())
        self._spawn(self.lookups.follow())
        self._spawn(self._resync_for_ever())
        for _ in range(settings.workers):
            self._spawn(self._work())
        return self

    async def stop(self) -> None:
        """Stop everything; the next start completes unfinished work."""
        left = set(self._tasks)
        while left:  # a task may miss a cancellation that arrives together with its result: it is cancelled again
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=END_SECONDS)
        try:
            await self.leadership.release() if self.settings.leader_election else None
        except ApiError as error:
            logger.warning("the Lease is not given back: %s", error)
        if self.runner is not None:
            await self.runner.cleanup()
        await self.cluster.close()

    def seen(self, kind: str, body: Mapping[str, Any], *, gone: bool = False, listed: bool = False) -> None:
        """Handle an object of a watch: new, changed, deleted, or listed when the watch was opened."""
        self._seen[kind] = time.monotonic()
        if listed:
            self._opened = time.monotonic()
        self.metrics.seen(kind)
        if gone:
            self.store.remove(kind, body)
            if kind == "Pod":
                self.lookups.forget(body)
        elif not self.store.put(kind, body):
            return
        run = key_of(body) if kind == "TeacherFineTune" else run_of(body)
        if run is not None:
            self.queue.add(run)

    def alive(self) -> tuple[bool, dict[str, Any]]:
        """Return True unless a restart would help."""
        stuck = self.queue.longest_work() > STUCK_SECONDS
        since = time.monotonic() - self._resynced
        blind = since > self.settings.resync_seconds * RESYNC_MISSES
        dead = [task.get_name() for task in self._tasks if task.done()]
        now = time.monotonic()
        details = {
            "last_event_age_seconds": {kind: round(now - at, 1) for kind, at in self._seen.items()},
            "last_resync_age_seconds": round(since, 1),
            "queue_depth": len(self.queue),
            "longest_work_seconds": round(self.queue.longest_work(), 1),
            "ended_tasks": dead,
        }
        return not (stuck or blind or dead), details

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Return True if it watches; a standby replica is ready too."""
        return self._listed, {"leader": self.leadership.held.is_set()}

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work, name=getattr(work, "__qualname__", "")))

    async def _work(self) -> None:
        while True:
            await self.leadership.held.wait()
            key = await self.queue.get()
            if not self.leadership.held.is_set():  # the Lease was lost while the queue was empty
                self.queue.done(key)
                self.queue.add(key)
                continue
            begun = time.monotonic()
            try:
                again = await self.reconciler.reconcile(key)
            except ApiError as error:
                self.metrics.reconcile.labels("error").observe(time.monotonic() - begun)
                logger.warning("%s is retried: %s", key, error, extra=self._about(key))
                self.queue.retry(key, error.retry_after or 0.0)
            except Exception:
                self.metrics.reconcile.labels("error").observe(time.monotonic() - begun)
                logger.exception("%s: this should not happen; it is retried", key, extra=self._about(key))
                self.queue.retry(key)
            else:
                self.metrics.reconcile.labels("ok").observe(time.monotonic() - begun)
                self.queue.forget(key)
                if again is not None:
                    self.queue.add_after(key, again)
            finally:
                self.queue.done(key)
            await asyncio.sleep(0)  # a reconciliation without requests never waits: let other tasks run

    async def _list_first(self) -> None:
        """Reconcile all objects, and wait for the API server as long as it takes."""
        while True:
            try:
                await self.resync(count=False)
                break
            except ApiError as error:
                logger.warning("the objects cannot be listed; retrying: %s", error)
                await asyncio.sleep(LIST_RETRY_SECONDS)
        self._listed, self._resynced = True, time.monotonic()
        self._opened = self._resynced  # the watches are not open yet

    async def _resync_for_ever(self) -> None:
        while True:
            regular = await self._resync_due()
            try:
                await self.resync(count=regular)
                self._resynced = time.monotonic()
            except ApiError as error:
                logger.warning("the full resync failed and is retried later: %s", error)
            except Exception:
                logger.exception("the full look at the cluster failed; this should not happen")

    async def _resync_due(self) -> bool:
        """Wait for the next full resync; return True if it is due only by its interval."""
        regular = time.monotonic() + self.settings.resync_seconds
        while True:
            now = time.monotonic()
            if now >= self._opened + SETTLE_SECONDS:
                self._opened = float("inf")
                return False
            if now >= regular:
                return True
            await asyncio.sleep(min(1.0, SETTLE_SECONDS))

    async def resync(self, *, count: bool = True) -> None:
        """Reconcile all objects, to find changes that no watch has shown; these are counted if a watch should have."""
        for kind in KINDS:
            known = self.store.versions(kind)
            there: set[Key] = set()
            for namespace in self.settings.namespaces or (None,):
                try:
                    async for body in self.cluster.list_all(kind, namespace):
                        key = key_of(body)
                        there.add(key)
                        if version(body) > known.get(key, -1) and self.store.put(kind, body):
                            self.metrics.missed.labels(kind).inc(int(count))
                            run = key if kind == KINDS[0] else run_of(body)
                            if run is not None:
                                self.queue.add(run)
                except ApiError as error:
                    if namespace is None or error.code != HTTPStatus.FORBIDDEN:
                        raise
                    # A deleted namespace has no Role either; the others are served all the same.
                    logger.warning("namespace %s cannot be looked at: %s", namespace, error)
                    there |= {key for key in known if key.namespace == namespace}
            for key in known.keys() - there:
                gone = self.store.get(kind, key)
                if gone is not None and version(gone) == known[key]:
                    self.metrics.missed.labels(kind).inc(int(count))
                    self.seen(kind, gone, gone=True)

    def _about(self, key: Key) -> dict[str, str]:
        """Return the fields of a log line that identify its object."""
        body = self.store.get("TeacherFineTune", key)
        return log_context(body) if body is not None else {"namespace": key.namespace, "object": key.name}

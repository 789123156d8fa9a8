"""Read on demand what no watch shows: logs of failed pods, warnings in events, progress of trainers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from teacher_operator.api.names import Key, container_of, owner_uid, run_of, stage_of
from teacher_operator.api.settings import Settings
from teacher_operator.api.status import LOG_LINES
from teacher_operator.decide.actions import Lookup
from teacher_operator.decide.failed_pods import root_cause_pod
from teacher_operator.decide.job_state import JobView
from teacher_operator.decide.pod_state import is_first
from teacher_operator.decide.progress import ProgressView, plain_lines, read_progress
from teacher_operator.runtime.cluster import ApiError, Cluster
from teacher_operator.runtime.store import Store, key_of, version
from teacher_operator.runtime.workqueue import WorkQueue

Body = Mapping[str, Any]

logger = logging.getLogger(__name__)

WARNINGS_SECONDS = 50.0
"""Seconds before the events of an object are read again: less than the requeue time of a decision."""

READING_SECONDS, READING_SHARE = 1.0, 0.05
"""Seconds that one read of the events of a namespace serves all requests; longer if reading is slow, so that at most
this fraction of time is spent on it."""

LOG_READ_LINES, LOG_READ_BYTES = 60, 1 << 20
"""Maximum bytes of a log: a limit for abnormally long lines, which cuts off the newest text."""

LOG_TRIES, LOG_RETRY_SECONDS = 3, 2.0
READERS = 8
READS_PER_SECOND = 25.0
"""Progress reads per second over all trainers: with many trainers each is read less often."""


@dataclass
class _Reading:
    """Warnings of one kind in one namespace by name, with the time and duration of the read."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    at: float = float("-inf")
    took: float = 0.0
    found: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def is_fresh(self) -> bool:
        return time.monotonic() - self.at < max(READING_SECONDS, self.took / READING_SHARE)


class Lookups:
    """Read on demand, with a cache.

    Args:
        cluster: The API server.
        store: Objects shown by the watches.
        queue: Receives the keys of objects with new data.
        settings: Settings of the operator.
    """

    def __init__(self, cluster: Cluster, store: Store, queue: WorkQueue[Key], settings: Settings) -> None:
        self._cluster = cluster
        self._store = store
        self._queue = queue
        self._settings = settings
        self._logs: dict[Key, Sequence[str]] = {}
        """Of failed pods."""
        self._tries: dict[Key, int] = {}
        """Number of failed reads of the log of a failed pod."""
        self._warnings: dict[tuple[str, Key], tuple[float, Sequence[str]]] = {}
        self._readings: dict[tuple[str, str], _Reading] = defaultdict(_Reading)
        self._progress: dict[Key, ProgressView] = {}
        """Of trainers' pods."""
        self._listed: dict[Key, int] = {}
        """Versions of Jobs for which their pods were listed."""

    def complete(self, view: JobView) -> JobView:
        """Return a Job with the data read for it and its pods."""
        pods = [key_of(pod) for pod in view.pods]
        root_cause = root_cause_pod(view.pods)
        first = [key for key, pod in zip(pods, view.pods, strict=True) if is_first(pod)]
        views = [self._progress[key] for key in first if key in self._progress]
        return replace(
            view,
            log=self._logs.get(key_of(root_cause)) if root_cause is not None else None,
            progress=views[-1] if views else None,
            warning_events=self._fresh([("Job", key_of(view.job)), *(("Pod", key) for key in pods)]),
        )

    async def read(self, run: Key, lookups: Sequence[Lookup]) -> bool:
        """Read what a decision needs; return False if all of it was read before."""
        news = False
        for lookup in lookups:
            key = Key(run.namespace, lookup.name)
            if lookup.kind == "log":
                if key not in self._logs:
                    news |= await self._read_failed_log(run, key, lookup.container)
            elif lookup.kind == "pods":
                news |= await self._list_pods(run, key)
            elif self._fresh([(lookup.kind, key)]) is None:
                self._warnings[lookup.kind, key] = (time.monotonic(), await self._warned(lookup.kind, key))
                news = True
        return news

    def forget(self, pod: Body) -> None:
        """A pod is gone."""
        key = key_of(pod)
        self._logs.pop(key, None)
        self._tries.pop(key, None)
        self._progress.pop(key, None)
        self._warnings.pop(("Pod", key), None)

    async def follow(self) -> None:
        """Read the progress of all trainers in turn, indefinitely."""
        while True:
            begun = time.monotonic()
            running = [pod for pod in self._store.running() if self._is_training(pod)]
            gate = asyncio.Semaphore(READERS)
            await asyncio.gather(*(self._read_progress(pod, gate) for pod in running))
            least = len(running) / READS_PER_SECOND
            wait = max(self._settings.progress_seconds, least) - (time.monotonic() - begun)
            await asyncio.sleep(max(1.0, wait))
            self._forget_old()

    def _is_training(self, pod: Body) -> bool:
        """Test if a pod belongs to a trainer Job of an object: anyone can create a pod with our labels."""
        run = run_of(pod)
        body = self._store.get("TeacherFineTune", run) if run is not None else None
        if body is None:
            return False
        jobs = {job["metadata"]["uid"] for job in self._store.jobs_of(body)}
        stage = stage_of(pod["metadata"].get("labels") or {})
        return stage is not None and stage.uses_gpu and owner_uid(pod) in jobs

    def _forget_old(self) -> None:
        old = [known for known, (at, _) in self._warnings.items() if time.monotonic() - at > WARNINGS_SECONDS]
        for known in old:
            del self._warnings[known]
        for place in [place for place, one in self._readings.items() if not (one.lock.locked() or one.is_fresh())]:
            del self._readings[place]
        for job in [job for job in self._listed if not self._store.has("Job", job)]:
            del self._listed[job]

    async def _read_progress(self, pod: Body, gate: asyncio.Semaphore) -> None:
        key, run = key_of(pod), run_of(pod)
        async with gate:
            try:
                lines = await self._cluster.pod_log(
                    key, container_of(pod), lines=LOG_READ_LINES, limit_bytes=LOG_READ_BYTES
                )
                before = self._progress.get(key)
                view = read_progress(lines, before)
            except ApiError:
                return  # the node may be lost: the status reports this from the pod itself
            except Exception:  # output of a pod is untrusted: it must not stop the task that serves all
                logger.exception("the log of pod %s cannot be read", key)
                return
        if view != before and self._store.has("Pod", key):
            self._progress[key] = view
            if run is not None:
                self._queue.add(run)

    async def _read_failed_log(self, run: Key, key: Key, container: str) -> bool:
        """Read the log of a failed pod; return False if its node does not answer and is queried again."""
        try:
            lines = await self._cluster.pod_log(key, container, lines=LOG_READ_LINES, limit_bytes=LOG_READ_BYTES)
        except ApiError:
            tries = self._tries[key] = self._tries.get(key, 0) + 1
            if tries < LOG_TRIES:
                self._queue.add_after(run, LOG_RETRY_SECONDS)
                return False
            lines = []
        self._tries.pop(key, None)
        self._logs[key] = plain_lines(lines)[-LOG_LINES:]
        return True

    async def _warned(self, kind: str, key: Key) -> Sequence[str]:
        """Return the warnings of an object. Reading those of one object costs the API server as much as of all."""
        reading = self._readings[kind, key.namespace]
        async with reading.lock:
            if not reading.is_fresh():
                begun = time.monotonic()
                found = await self._cluster.warnings(kind, key.namespace)
                reading.found = {
                    name: messages
                    for name, messages in found.items()
                    if self._store.has(kind, Key(key.namespace, name))
                }
                reading.at, reading.took = time.monotonic(), time.monotonic() - begun
            return reading.found.get(key.name, ())

    async def _list_pods(self, run: Key, job: Key) -> bool:
        """List the pods of a run, once per version of its Job; return False if already done."""
        body = self._store.get("Job", job)
        if body is None or self._listed.get(job) == version(body):
            return False
        async for pod in self._cluster.list_all("Pod", run.namespace, run=run.name):
            self._store.put("Pod", pod)
        self._listed[job] = version(body)
        return True

    def _fresh(self, keys: Sequence[tuple[str, Key]]) -> Sequence[str] | None:
        """Return the recent warnings of these objects."""
        now, known = time.monotonic(), False
        found: list[str] = []
        for key in keys:
            at, messages = self._warnings.get(key, (float("-inf"), ()))
            if now - at < WARNINGS_SECONDS:
                known = True
                found += messages
        return found if known else None

"""What no watch shows and is read when it is needed: logs of failed pods, warnings in events, progress of trainers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from teacher_operator.cluster import ApiError, Cluster
from teacher_operator.names import COMPONENT, TRAINER, Key, run_of
from teacher_operator.observe import JobView
from teacher_operator.progress import ProgressView, plain_lines, read_progress
from teacher_operator.settings import Settings
from teacher_operator.status import LOG_LINES
from teacher_operator.store import Store, key_of, version
from teacher_operator.todo import Look
from teacher_operator.workqueue import WorkQueue

Body = Mapping[str, Any]

WARNINGS_SECONDS = 60.0
"""For how long the events of an object are not read again."""

LOG_READ_LINES, LOG_READ_BYTES = 60, 64 * 1024
READERS = 8
READS_PER_SECOND = 25.0
"""Of progress, over all trainers: with many of them, each is looked at less often."""


class Looks:
    """Reads, and remembers while it is worth it.

    Args:
        cluster: The API server.
        store: What the watches have shown.
        queue: Gets the objects of which there is news.
        settings: Of the operator.
    """

    def __init__(self, cluster: Cluster, store: Store, queue: WorkQueue[Key], settings: Settings) -> None:
        self._cluster = cluster
        self._store = store
        self._queue = queue
        self._settings = settings
        self._logs: dict[Key, Sequence[str]] = {}
        """Of failed pods."""
        self._warnings: dict[tuple[str, Key], tuple[float, Sequence[str]]] = {}
        self._progress: dict[Key, ProgressView] = {}
        """Of trainers' pods."""
        self._listed: dict[Key, int] = {}
        """Versions of Jobs at which their pods were listed."""

    def complete(self, view: JobView) -> JobView:
        """A Job with what was read of it and its pods."""
        pods = [key_of(pod) for pod in view.pods]
        failed = [key for key, pod in zip(pods, view.pods, strict=True) if pod["status"].get("phase") == "Failed"]
        told = [self._progress[key] for key in pods if key in self._progress]
        return replace(
            view,
            log=self._logs.get(failed[-1]) if failed else None,
            progress=told[-1] if told else None,
            complaints=self._fresh([("Job", key_of(view.job)), *(("Pod", key) for key in pods)]),
        )

    async def look(self, run: Key, looks: Sequence[Look]) -> bool:
        """Read what a decision asks for; False if all of it was read before."""
        news = False
        for look in looks:
            key = Key(run.namespace, look.name)
            if look.kind == "log":
                if key not in self._logs:
                    self._logs[key] = await self._failed_log(key, look.container)
                    news = True
            elif look.kind == "pods":
                news |= await self._list_pods(run, key)
            elif self._fresh([(look.kind, key)]) is None:
                self._warnings[look.kind, key] = (time.monotonic(), await self._cluster.warnings(look.kind, key))
                self._queue.add_after(run, WARNINGS_SECONDS)
                news = True
        return news

    def forget(self, pod: Body) -> None:
        """A pod is gone."""
        key = key_of(pod)
        self._logs.pop(key, None)
        self._progress.pop(key, None)
        self._warnings.pop(("Pod", key), None)

    async def follow(self) -> None:
        """Read the progress of all trainers in turn, for ever."""
        while True:
            begun = time.monotonic()
            running = [pod for pod in self._store.all("Pod") if _is_training(pod)]
            gate = asyncio.Semaphore(READERS)
            await asyncio.gather(*(self._read_progress(pod, gate) for pod in running))
            least = len(running) / READS_PER_SECOND
            wait = max(self._settings.progress_seconds, least) - (time.monotonic() - begun)
            await asyncio.sleep(max(1.0, wait))
            old = [known for known, (at, _) in self._warnings.items() if time.monotonic() - at > WARNINGS_SECONDS]
            for known in old:
                del self._warnings[known]
            for job in [job for job in self._listed if self._store.get("Job", job) is None]:
                del self._listed[job]

    async def _read_progress(self, pod: Body, gate: asyncio.Semaphore) -> None:
        key, run = key_of(pod), run_of(pod)
        async with gate:
            try:
                lines = await self._cluster.pod_log(key, TRAINER, lines=LOG_READ_LINES, limit_bytes=LOG_READ_BYTES)
            except ApiError:
                return  # the node may be lost: the status says so from the pod itself
        before = self._progress.get(key)
        view = read_progress(lines, before)
        if view != before and self._store.get("Pod", key) is not None:
            self._progress[key] = view
            if run is not None:
                self._queue.add(run)

    async def _failed_log(self, key: Key, container: str) -> Sequence[str]:
        try:
            lines = await self._cluster.pod_log(key, container, lines=LOG_READ_LINES, limit_bytes=LOG_READ_BYTES)
        except ApiError:
            return ()
        return plain_lines(lines)[-LOG_LINES:]

    async def _list_pods(self, run: Key, job: Key) -> bool:
        """Bring the pods of a run up to date, once for every version of its Job; False if that was done."""
        body = self._store.get("Job", job)
        if body is None or self._listed.get(job) == version(body):
            return False
        async for pod in self._cluster.list_all("Pod", run.namespace, run=run.name):
            self._store.put("Pod", pod)
        self._listed[job] = version(body)
        return True

    def _fresh(self, keys: Sequence[tuple[str, Key]]) -> Sequence[str] | None:
        """The warnings of these, if they were read of late."""
        now, known = time.monotonic(), False
        found: list[str] = []
        for key in keys:
            at, messages = self._warnings.get(key, (float("-inf"), ()))
            if now - at < WARNINGS_SECONDS:
                known = True
                found += messages
        return found if known else None


def _is_training(pod: Body) -> bool:
    labels = pod["metadata"].get("labels") or {}
    return labels.get(COMPONENT) == TRAINER and pod["status"].get("phase") == "Running"

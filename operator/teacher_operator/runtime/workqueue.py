"""Work queue for controllers: each key is processed by one worker at a time, and is in the queue at most once."""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from typing import Generic, TypeVar

K = TypeVar("K")

FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.25, 60.0

GIVES_WAY_SECONDS = 30.0
"""Seconds that a key requeued by time gives way to keys with events. After that it counts as an event, so that it does
not wait indefinitely if events arrive faster than they are processed."""

BETWEEN_SECONDS = 0.01
"""Seconds between two keys requeued by time. Thousands may be due together, and each would delay the event loop, which
an event needs many times: to arrive, and for each request to the API server."""


class WorkQueue(Generic[K]):
    """Keys to process, now or later. For one event loop."""

    def __init__(self) -> None:
        self._ready: asyncio.PriorityQueue[tuple[float, int, K]] = asyncio.PriorityQueue()
        """Heap by turn: the time of an event, or the time until which a key requeued by time gives way. A key with an
        event while it was due is in it twice."""
        self._waiting: dict[K, float] = {}
        """Turn by key in the queue."""
        self._working: dict[K, float] = {}
        self._again: set[K] = set()
        """Keys that were added while they were processed."""
        self._later: list[tuple[float, int, K]] = []
        self._due: dict[K, float] = {}
        self._failures: dict[K, int] = {}
        self._wake = asyncio.Event()
        self._count = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: K, *, due: bool = False) -> None:
        """Process a key as soon as a worker is free; a key requeued by time gives way to keys with events."""
        if key in self._working:
            self._again.add(key)
            return
        turn = time.monotonic() + (GIVES_WAY_SECONDS if due else 0.0)
        if turn >= self._waiting.get(key, float("inf")):
            return
        self._waiting[key] = turn
        self._count += 1
        self._ready.put_nowait((turn, self._count, key))

    def add_after(self, key: K, seconds: float) -> None:
        """Process a key after a time, or earlier if it is added otherwise."""
        due = time.monotonic() + max(0.0, seconds)
        if key in self._due and self._due[key] <= due:
            return
        self._due[key] = due
        self._count += 1
        heapq.heappush(self._later, (due, self._count, key))
        self._wake.set()

    def retry(self, key: K, at_least: float = 0.0) -> None:
        """Process a failed key again, with exponential backoff and jitter."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay = min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(failures, 20))
        self.add_after(key, max(at_least, delay * random.uniform(0.5, 1.0)))

    def forget(self, key: K) -> None:
        """Reset the backoff of a key that was processed without failure."""
        self._failures.pop(key, None)

    async def get(self) -> K:
        """Return the next key; :meth:`done` must follow."""
        turn, _, key = await self._ready.get()
        while self._waiting.get(key) != turn:  # it was due, and then an event arrived
            turn, _, key = await self._ready.get()
        del self._waiting[key]
        self._working[key] = time.monotonic()
        return key

    def done(self, key: K) -> None:
        """Record that a worker has finished with a key."""
        del self._working[key]
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def longest_work(self) -> float:
        """Return the seconds that the slowest worker has spent on its key."""
        return max((time.monotonic() - begun for begun in self._working.values()), default=0.0)

    async def run_timer(self) -> None:
        """Add keys when they are due, indefinitely."""
        while True:
            now = time.monotonic()
            while self._later and self._later[0][0] <= now:
                due, _, key = heapq.heappop(self._later)
                if self._due.get(key) == due:  # otherwise an earlier time has replaced it
                    del self._due[key]
                    failed = key in self._failures  # a failed key counts as an event: its backoff is over
                    self.add(key, due=not failed)
                    await asyncio.sleep(0 if failed else BETWEEN_SECONDS)
            self._wake.clear()
            try:
                wait = self._later[0][0] - time.monotonic() if self._later else None
                # wait_for would lose a cancellation that arrives together with its result
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                continue

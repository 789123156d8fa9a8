"""A queue of keys as controllers use it: a key is worked on by one worker at a time, and never waits twice."""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from typing import Generic, TypeVar

K = TypeVar("K")

FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.25, 60.0

GIVES_WAY_SECONDS = 30.0
"""So long does a key that is only due give way to those of which there is news: then it is as news that comes now, so
that it does not wait for ever where news comes faster than it is worked on."""

BETWEEN_SECONDS = 0.01
"""Between two keys that are due. Thousands may be at once, and each would take its share of every turn of the event
loop, of which news takes many: to hear of it, and to ask and be answered by the API server."""


class WorkQueue(Generic[K]):
    """Keys that want work, now or later. For one event loop."""

    def __init__(self) -> None:
        self._ready: asyncio.PriorityQueue[tuple[float, int, K]] = asyncio.PriorityQueue()
        """By turn: the time at which there was news of a key, or at which one that is due gives way no more. A key of
        which there was news while it was due is in it twice."""
        self._waiting: dict[K, float] = {}
        """Keys in the queue, with their turn."""
        self._working: dict[K, float] = {}
        self._again: set[K] = set()
        """Keys that were added while they were worked on."""
        self._later: list[tuple[float, int, K]] = []
        self._due: dict[K, float] = {}
        self._failures: dict[K, int] = {}
        self._wake = asyncio.Event()
        self._count = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: K, *, due: bool = False) -> None:
        """Work on a key as soon as a worker is free; one that is only due gives way to those of which there is news."""
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
        """Work on a key after a time, or earlier if something else asks for it."""
        due = time.monotonic() + max(0.0, seconds)
        if key in self._due and self._due[key] <= due:
            return
        self._due[key] = due
        self._count += 1
        heapq.heappush(self._later, (due, self._count, key))
        self._wake.set()

    def retry(self, key: K, at_least: float = 0.0) -> None:
        """Work on a key that failed, after ever longer times with jitter."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay = min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(failures, 20))
        self.add_after(key, max(at_least, delay * random.uniform(0.5, 1.0)))

    def forget(self, key: K) -> None:
        """The key was worked on well: its next failure is its first."""
        self._failures.pop(key, None)

    async def get(self) -> K:
        """The next key; :meth:`done` must follow."""
        turn, _, key = await self._ready.get()
        while self._waiting.get(key) != turn:  # it was due, and then there was news of it
            turn, _, key = await self._ready.get()
        del self._waiting[key]
        self._working[key] = time.monotonic()
        return key

    def done(self, key: K) -> None:
        """The key is worked on no more."""
        del self._working[key]
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def longest_work(self) -> float:
        """Seconds for which the slowest worker has been at its key."""
        return max((time.monotonic() - begun for begun in self._working.values()), default=0.0)

    async def run_timer(self) -> None:
        """Add keys when they are due, for ever."""
        while True:
            now = time.monotonic()
            while self._later and self._later[0][0] <= now:
                due, _, key = heapq.heappop(self._later)
                if self._due.get(key) == due:  # else an earlier time has taken its place
                    del self._due[key]
                    failed = key in self._failures  # what failed is wanted, and its wait was long enough
                    self.add(key, due=not failed)
                    await asyncio.sleep(0 if failed else BETWEEN_SECONDS)
            self._wake.clear()
            try:
                wait = self._later[0][0] - time.monotonic() if self._later else None
                # wait_for would lose a cancellation that comes with what it waits for
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                continue

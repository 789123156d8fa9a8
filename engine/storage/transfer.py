"""Many transfers at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from engine.storage.base import OnProgress, Progress

THREADS = 16
WAITING = 4 * THREADS
"""Items taken from the iterable and not done yet: what bounds memory."""

T = TypeVar("T")


def in_parallel(
    work: Callable[[T], int],
    items: Iterable[T],
    on_progress: OnProgress | None,
    *,
    objects_total: int | None = None,
    bytes_total: int | None = None,
) -> None:
    """Do ``work``, which returns how many bytes it was about, on every item in threads.

    Items are taken as they are needed. The first failure stops the rest and is raised when what is under way has
    ended. ``on_progress`` is called in this thread.
    """
    objects = size = 0
    stopped = threading.Event()

    def guarded(item: T) -> int:
        return 0 if stopped.is_set() else work(item)

    def settle(pending: set[Future[int]]) -> set[Future[int]]:
        nonlocal objects, size
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        size += sum(future.result() for future in done)
        objects += len(done)
        if on_progress is not None:
            on_progress(Progress(objects, size, objects_total, bytes_total))
        return pending

    with ThreadPoolExecutor(THREADS) as pool:
        pending: set[Future[int]] = set()
        try:
            for item in items:
                pending.add(pool.submit(guarded, item))
                if len(pending) >= WAITING:
                    pending = settle(pending)
            while pending:
                pending = settle(pending)
        except BaseException:
            stopped.set()
            raise

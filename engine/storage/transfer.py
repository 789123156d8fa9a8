"""Parallel transfers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from queue import Empty, SimpleQueue
from typing import TypeVar

from engine.storage.base import OnProgress, Progress

THREADS = 16
WAITING = 4 * THREADS
"""Maximum unfinished items taken from the iterable; bounds the memory."""

T = TypeVar("T")
R = TypeVar("R")


def each_done(work: Callable[[T], R], items: Iterable[T], *, threads: int = THREADS) -> Generator[R, None, None]:
    """Apply ``work`` to every item in threads, and yield the results in the order of completion.

    Items are taken from the iterable as needed, in the thread that consumes the results. The first failure stops the
    rest and is raised after running work has ended. A caller that may not consume all results must close the generator.
    """
    waiting: SimpleQueue[T | None] = SimpleQueue()
    done: SimpleQueue[tuple[R | None, BaseException | None]] = SimpleQueue()
    stopped = threading.Event()
    taken = given = started = 0

    def serve() -> None:
        while (item := waiting.get()) is not None and not stopped.is_set():
            try:
                done.put((work(item), None))
            except BaseException as failure:  # noqa: BLE001 - raised in the consumer
                done.put((None, failure))

    def next_done(*, wait: bool) -> R:
        result, failure = done.get(wait)
        if failure is not None:
            raise failure
        return result  # type: ignore[return-value]

    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.put(item)
                taken += 1
                if started < threads:
                    pool.submit(serve)
                    started += 1
                while given < taken:
                    try:
                        result = next_done(wait=taken - given >= WAITING)
                    except Empty:
                        break
                    given += 1
                    yield result
            while given < taken:
                result = next_done(wait=True)
                given += 1
                yield result
        except BaseException:
            stopped.set()
            raise
        finally:
            for _ in range(started):
                waiting.put(None)


def in_parallel(
    work: Callable[[T], int],
    items: Iterable[T],
    on_progress: OnProgress | None,
    *,
    objects_total: int | None = None,
    bytes_total: int | None = None,
) -> None:
    """Apply ``work``, which returns a number of bytes, to every item in threads, as :func:`each_done` does.

    ``on_progress`` is called in the calling thread.
    """
    size = 0
    with closing(each_done(work, items)) as done:
        for objects, more in enumerate(done, start=1):
            size += more
            if on_progress is not None:
                on_progress(Progress(objects, size, objects_total, bytes_total))

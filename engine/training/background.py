"""A task in a background thread, cancelled when its block ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Generic, Self, TypeVar

SHUTDOWN_TIMEOUT = 5.0
"""Seconds to wait for a cancelled task: its network requests may take minutes."""

T = TypeVar("T")


class TaskCancelledError(Exception):
    """The task was cancelled: its result is no longer needed."""


class BackgroundTask(Generic[T]):
    """Run one function in its own thread; leaving the block cancels it.

    The function must not communicate with other processes of the run: collective operations belong to the main thread.
    """

    def __init__(self) -> None:
        self._cancelled = threading.Event()
        self._thread: threading.Thread | None = None
        self._future: Future[T] = Future()

    def begin(self, work: Callable[[Callable[[], None]], T]) -> None:
        """Start ``work`` in the thread, once. It receives a function to call regularly, which raises once cancelled."""
        # A daemon thread: the process may end before a network request returns.
        self._thread = threading.Thread(target=self._do, args=(work,), name="background-task", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Return whether the task has started and not ended."""
        return self._thread is not None and not self._future.done()

    def check(self) -> None:
        """Raise the error of the task if it has failed."""
        if self._future.done():
            self._future.result()

    def result(self) -> T | None:
        """Wait for the task; return its result or raise its error. None if it was not started."""
        return None if self._thread is None else self._future.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cancelled.set()
        if self._thread is not None:
            self._thread.join(SHUTDOWN_TIMEOUT)

    def _do(self, work: Callable[[Callable[[], None]], T]) -> None:
        try:
            self._future.set_result(work(self._check_cancelled))
        except BaseException as failure:  # noqa: BLE001 - result() raises it
            self._future.set_exception(failure)

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise TaskCancelledError

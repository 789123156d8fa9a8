"""One piece of work that is done while the main thread does what does not need it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Generic, Self, TypeVar

PATIENCE = 5.0
"""Seconds that work which is not wanted any more is waited for: what it asked the network for may take minutes."""

T = TypeVar("T")


class UnwantedError(Exception):
    """Nobody waits for the work any more."""


class Beside(Generic[T]):
    """Work in a thread of its own, which is not wanted any more after the block.

    It must be nothing that all processes of a run do together: these speak in the main thread alone.
    """

    def __init__(self) -> None:
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._found: Future[T] = Future()

    def begin(self, work: Callable[[Callable[[], None]], T]) -> None:
        """Begin with the work, once. It is given a function to call again and again, which ends it when it is over."""
        # A daemon, since the process may end before an answer comes.
        self._thread = threading.Thread(target=self._do, args=(work,), name="beside", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether the work has begun and is not done."""
        return self._thread is not None and not self._found.done()

    def check(self) -> None:
        """Raise what the work has failed by, if it has."""
        if self._found.done():
            self._found.result()

    def result(self) -> T | None:
        """Wait for what the work gives, or raise what it fails by; None if it has not been begun."""
        return None if self._thread is None else self._found.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(PATIENCE)

    def _do(self, work: Callable[[Callable[[], None]], T]) -> None:
        try:
            self._found.set_result(work(self._still_wanted))
        except BaseException as failure:  # noqa: BLE001 - it is raised where the result is asked for
            self._found.set_exception(failure)

    def _still_wanted(self) -> None:
        if self._over.is_set():
            raise UnwantedError

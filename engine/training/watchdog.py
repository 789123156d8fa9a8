"""Ends a process in which nothing happens any more: a GPU that hangs costs as much as one that works."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import active_children
from types import TracebackType
from typing import Self

from engine.errors import NoProgressError

TIMES = 10
"""As long as this many of the longest time between two signs of life is not called long."""

LOOKS = 50
"""How often the time is looked at until it is up."""


def print_failure(error: NoProgressError) -> None:
    """Say it on standard error, whoever holds the stream."""
    os.write(2, f"error: {error}\n".encode())


class Watchdog:
    """Inside its block, whoever is at work calls :meth:`alive`; if nobody does for long, the process ends.

    It ends from a thread of its own, since the one that hangs can do nothing: what every thread was doing goes to
    standard error, ``tell`` says it to whoever started the process, and the exit code is that of NoProgressError.
    Where even that thread cannot go on (the interpreter is held), faulthandler ends the process, with exit code 1.

    Args:
        seconds: How long is long, at least.
        tell: Is given the failure. It must not wait for what another thread may hold.
        end: Ends the process with an exit code.
    """

    def __init__(
        self,
        seconds: float,
        tell: Callable[[NoProgressError], None],
        *,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self.seconds, self.tell, self.end = seconds, tell, end
        self._longest = 0.0
        self._last = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    @property
    def limit(self) -> float:
        """Seconds without a sign of life after which the process ends."""
        return max(self.seconds, TIMES * self._longest)

    def alive(self) -> None:
        """A sign of life."""
        now = time.monotonic()
        self._longest = max(self._longest, now - self._last)
        self._last = now

    def __enter__(self) -> Self:
        self._last = time.monotonic()
        self._arm()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def _arm(self) -> None:
        """If this is not called again in time, not even the watching thread can go on."""
        faulthandler.dump_traceback_later(2 * self.limit, exit=True)

    def _watch(self) -> None:
        while not self._over.wait(self.limit / LOOKS):
            self._arm()
            silent = time.monotonic() - self._last
            if silent > self.limit:
                faulthandler.dump_traceback(file=sys.__stderr__ or 2, all_threads=True)
                self.tell(
                    NoProgressError(
                        f"nothing has happened for {silent:.0f} seconds: what each thread was doing is on standard "
                        "error; the same command goes on from the last checkpoint. If a step may take as long, raise "
                        "training.hang_seconds"
                    )
                )
                for worker in active_children():
                    worker.kill()  # one that is left would keep whoever reads our output waiting
                self.end(NoProgressError.exit_code)

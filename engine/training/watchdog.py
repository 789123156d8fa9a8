"""End a process that makes no progress: a GPU that hangs costs as much as one that works."""

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
"""The limit is at least this multiple of the longest time between two signs of progress."""

LOOKS = 50
"""Number of checks within the time limit."""


def print_failure(error: NoProgressError) -> None:
    """Write the error to standard error, even if another thread holds the stream's lock."""
    os.write(2, f"error: {error}\n".encode())


class Watchdog:
    """Inside its block, the working code calls :meth:`alive`; without a call for too long, the process ends.

    It is ended by a separate thread, since the hanging one cannot: the stacks of all threads go to standard error,
    ``tell`` reports the error to the parent, and the exit code is that of NoProgressError. If even that thread is
    blocked (the interpreter lock is held), faulthandler ends the process, with exit code 1.

    Args:
        seconds: Minimum time limit.
        tell: Receives the error. It must not wait for locks that another thread may hold.
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
        """Seconds without a sign of progress after which the process ends."""
        return max(self.seconds, TIMES * self._longest)

    def alive(self) -> None:
        """Record a sign of progress."""
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
        """Restart the timer of faulthandler, which runs out if the watching thread is blocked too."""
        faulthandler.dump_traceback_later(2 * self.limit, exit=True)

    def _watch(self) -> None:
        while not self._over.wait(self.limit / LOOKS):
            self._arm()
            silent = time.monotonic() - self._last
            if silent > self.limit:
                faulthandler.dump_traceback(file=sys.__stderr__ or 2, all_threads=True)
                self.tell(
                    NoProgressError(
                        f"no progress for {silent:.0f} seconds: the stack of each thread is on standard "
                        "error; the same command resumes from the last checkpoint. If a step may take as long, raise "
                        "training.hang_seconds"
                    )
                )
                for worker in active_children():
                    worker.kill()  # a remaining worker would keep the output pipe open
                self.end(NoProgressError.exit_code)

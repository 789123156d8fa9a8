"""Requests to stop: SIGTERM, SIGHUP and Ctrl-C unwind the main thread. It imports little, to be ready early."""

from __future__ import annotations

import os
import signal
import sys
import time
from _thread import start_new_thread
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from engine.errors import InterruptedTrainingError
from engine.processes.signals import KILLED_BY_CTRL_C, is_second_ctrl_c, signal_name

SHUTDOWN_TIMEOUT = 10
"""Seconds after a stop request before the process is forced to end; the sender of SIGTERM may wait for 30."""


class Sigterm(BaseException):
    """SIGTERM arrived. Like KeyboardInterrupt not an Exception, which libraries would catch."""


@contextmanager
def sigterm_as_error() -> Iterator[None]:
    """Turn a request to stop into a failure, so that it is reported as one.

    Raises:
        InterruptedTrainingError: One arrived within the block.
    """
    try:
        yield
    except Sigterm as stopped:
        raise InterruptedTrainingError(str(stopped)) from None


def end_by_signal(number: int, frame: object) -> None:
    """Unwind the main thread; end the process after a timeout, or immediately at a second Ctrl-C."""
    if is_second_ctrl_c(number):
        os._exit(KILLED_BY_CTRL_C)
    if number == signal.SIGINT and signal.getsignal(signal.SIGTERM) == signal.SIG_IGN:
        return  # the same Ctrl-C once more
    for other in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)  # ignored from now on, so that the cleanup is not interrupted
    words = ["teacher", *(word for word in sys.argv[1:] if not word.startswith("-"))]
    stopped = (
        f"{signal_name(number)} arrived while {' '.join(words[:2])} was at work: the same command does what is left"
    )
    start_new_thread(_end_later, (SHUTDOWN_TIMEOUT, stopped))
    raise Sigterm(stopped)


def _end_later(seconds: float, sentence: str) -> None:
    """End the process if a transfer or a library does not return; print the message first."""
    time.sleep(seconds)
    with suppress(OSError):
        os.write(2, f"error: {sentence}\n".encode(errors="replace"))
    os._exit(InterruptedTrainingError.exit_code)

"""Requests to stop a process: SIGTERM, Ctrl-C (SIGINT) and a terminal that was closed (SIGHUP) are heeded alike.

The first request ends work where nothing is lost. A second Ctrl-C ends the process immediately.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

KILLED_BY_CTRL_C = 130
"""Exit code after a second Ctrl-C."""

SAME_KEY_PRESS = 1.0
"""Seconds in which another SIGINT counts as the same Ctrl-C: ``uv run``, ``npm`` and ``make`` pass on what the terminal
has sent to the whole process group already."""

Handler = Callable[[int, FrameType | None], Any]

_first_request: float | None = None


def handle_stop(handler: Handler) -> dict[signal.Signals, Any]:
    """Install a handler of every stop signal; one that the process ignores stays ignored, as ``nohup`` wants it.

    Returns:
        The handlers before, for :func:`restore_handlers`.
    """
    ignored = {number for number in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_IGN}
    return {number: signal.signal(number, handler) for number in STOP_SIGNALS if number not in ignored}


def restore_handlers(previous: Mapping[signal.Signals, Any]) -> None:
    """Install the handlers that :func:`handle_stop` returned."""
    for number, handler in previous.items():
        signal.signal(number, handler)


def is_second_ctrl_c(number: int) -> bool:
    """Count a request to stop; return whether it is a Ctrl-C that follows an earlier request."""
    global _first_request
    now = time.monotonic()
    if _first_request is None:
        _first_request = now
        return False
    return number == signal.SIGINT and now - _first_request > SAME_KEY_PRESS


def forget_requests() -> None:
    """Reset the count: a notebook may interrupt one training run, and later another."""
    global _first_request
    _first_request = None


def signal_name(number: int) -> str:
    """Name of a stop signal as people know it.

    >>> signal_name(2), signal_name(15)
    ('Ctrl-C', 'SIGTERM')
    """
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name

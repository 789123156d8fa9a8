from __future__ import annotations

import subprocess
import time

import pytest
from forked import run_code

from engine.errors import NoProgressError
from engine.training.watchdog import Watchdog

HANGS = """
import sys, threading, time, ctypes
from engine.training.watchdog import Watchdog, print_failure
with Watchdog(0.5, print_failure) as watchdog:
    watchdog.alive()
    {hang}
"""


def run(hang: str) -> subprocess.CompletedProcess[str]:
    return run_code(HANGS.format(hang=hang))


@pytest.mark.parametrize("hang", ["threading.Event().wait()", "ctypes.CDLL(None).pause()"])
def test_a_process_that_hangs_ends_with_its_own_code_and_what_its_threads_did(hang: str) -> None:
    ended = run(hang)
    assert ended.returncode == NoProgressError.exit_code
    assert 'File "<string>", line 6 in <module>' in ended.stderr
    assert "error: no progress for " in ended.stderr


def test_one_that_holds_the_interpreter_ends_too() -> None:
    ended = run("ctypes.PyDLL(None).pause()")  # unlike CDLL, it keeps the lock
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr
    assert 'File "<string>", line 6 in <module>' in ended.stderr


def test_who_is_slow_but_alive_is_left_alone() -> None:
    ends: list[int] = []
    with Watchdog(0.3, lambda error: None, end=ends.append) as watchdog:
        for _ in range(8):
            time.sleep(0.1)
            watchdog.alive()
    assert not ends


def test_as_long_as_ten_of_the_longest_steps_is_not_called_long() -> None:
    watchdog = Watchdog(0.1, lambda error: None)
    assert watchdog.limit == 0.1
    time.sleep(0.2)
    watchdog.alive()
    assert watchdog.limit > 2


def test_who_was_alive_often_and_then_stands_still_is_ended_in_time() -> None:
    ends: list[float] = []
    with Watchdog(0.5, lambda error: None, end=lambda code: ends.append(time.monotonic())) as watchdog:
        for _ in range(60):  # three seconds: much longer than the limit
            time.sleep(0.02)
            watchdog.alive()
        assert not ends
        stood = time.monotonic()
        time.sleep(1.5)
    assert ends
    assert ends[0] - stood < 1.4

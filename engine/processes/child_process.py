"""Starts the engine's command line as a child process, which ends when its parent has ended.

Python puts the working directory in front of all packages where it runs a module (``-m``) or a string (``-c``), and
wherever ``PYTHONPATH`` has an empty entry. A user's ``yaml.py`` there is none of our packages, so no process of ours
looks there.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from _thread import start_new_thread
from collections.abc import Mapping
from pathlib import Path

PARENT = "TEACHER_PARENT"
"""Environment variable: process id of the parent, with which this process ends."""

POLL_SECONDS = 1.0
STOP_TIMEOUT = 100.0
"""Seconds for a checkpoint after the parent has ended."""


def command(*words: str) -> list[str]:
    """Return the command ``teacher`` with these arguments, for this interpreter and its packages."""
    return [sys.executable, "-P", "-m", "engine.cli", *words]


def environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a child that ends with this process and imports nothing from its working directory."""
    variables = dict(os.environ if base is None else base)
    _without_working_directory(variables)
    return variables | {PARENT: str(os.getpid())}


def import_nothing_from_working_directory() -> None:
    """Remove the working directory from the import path of this process and of all its child processes."""
    here, installed_in = str(Path.cwd()), str(Path(__file__).resolve().parents[2])
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if len(entries) > 1 and "" in entries and here not in entries and here != installed_in:
        sys.path[:] = [entry for entry in sys.path if entry not in ("", here)]
    _without_working_directory(os.environ)


def _without_working_directory(variables: dict[str, str] | os._Environ[str]) -> None:
    variables["PYTHONSAFEPATH"] = "1"
    if "PYTHONPATH" in variables:
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, variables["PYTHONPATH"].split(os.pathsep)))


def end_with_parent() -> None:
    """Stop this process by SIGTERM when the parent that started it with :func:`environment` has ended.

    A thread watches the parent. The kernel's ``PR_SET_PDEATHSIG`` exists on Linux only, and acts when the parent's
    thread ends.
    """
    parent = int(os.environ.pop(PARENT, None) or 0)  # not for the processes that this one starts
    if parent:
        start_new_thread(_watch, (parent,))


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_TIMEOUT)
    os._exit(128 + signal.SIGTERM)

"""Starts processes of this machine, passes signals on to them, ends them together, and tells how they ended.

The local runner starts one process per stage with it, and ``teacher launch`` the processes of one training. It never
imports torch.
"""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from engine.errors import InterruptedTrainingError
from engine.processes.signals import handle_stop, is_second_ctrl_c, restore_handlers

POLL_SECONDS = 0.05

SETTLE = 30.0
"""Seconds in which the other processes end by themselves after one has failed."""

SIGNALLED = 128
"""Exit codes above this one are 128 + the signal that ended a process."""

LineReader = Callable[[str], object]


@dataclass(frozen=True)
class Child:
    """A process to start.

    Attributes:
        command: Program and arguments.
        environment: All of its environment variables.
        outcome: File in which it leaves its outcome, if it does.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    outcome: Path | None = None


class Ended(NamedTuple):
    """The end of all processes.

    Attributes:
        exit_code: 0 if all ended well; that of the process that failed first, 128 + n if signal n ended it; 143 if not
            even SIGTERM could end them.
        speaker: The process whose outcome counts: the one that failed first, else the first; None if none ended by
            itself.
    """

    exit_code: int
    speaker: int | None


def supervise(
    children: Sequence[Child],
    *,
    on_line: LineReader | None = None,
    grace: float | None = None,
    settle: float = SETTLE,
) -> Ended:
    """Run processes until all have ended. SIGTERM, Ctrl-C and SIGHUP are passed on to them as SIGTERM.

    A second Ctrl-C kills them, and then has the effect that it has without them. An exception of ``on_line`` stops
    them, and is raised once they have ended.

    Args:
        children: What to start.
        on_line: Receives each line of their standard output, in this thread; default: they share that of this process.
        grace: Seconds after a request to stop until those that are left are killed; None: they are waited for.
        settle: The same after a failure.
    """
    group = _Group(grace=grace, settle=settle, on_line=on_line)
    previous = handle_stop(group.stop)  # before there is a process, so that none is left behind
    group.interrupt = previous.get(signal.SIGINT)
    try:
        for child in children:
            group.start(child)
        group.wait()
    except BaseException:
        group.terminate()  # otherwise they would continue, and we would wait for them
        group.wait_silently()
        raise
    finally:
        group.kill()
        restore_handlers(previous)
    speaker, exit_code = group.verdict()
    file = children[speaker].outcome if speaker is not None else None
    if exit_code > SIGNALLED and file is not None and file.exists():
        exit_code = _exit_code_in(file) or exit_code  # it had left its outcome before a signal ended it
    return Ended(exit_code, speaker)


class _Group:
    """The processes, and what is known of their ends."""

    def __init__(self, *, grace: float | None, settle: float, on_line: LineReader | None) -> None:
        self.grace, self.settle, self.on_line = grace, settle, on_line
        self.interrupt: Any = None
        """Effect of a second Ctrl-C."""
        self.processes: list[subprocess.Popen[str]] = []
        self.readers: list[threading.Thread] = []
        self.lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.ended: dict[int, int] = {}
        """Exit codes of those that ended by themselves, in the order in which they did."""
        self.stopped = False
        self.deadline: float | None = None

    def stop(self, number: int, frame: object) -> None:
        """Handle a request to stop."""
        again = is_second_ctrl_c(number)
        self.stopped = True
        if again:
            for process in self.processes:
                process.kill()  # without waiting, which needs a lock that the interrupted code may hold
            if callable(self.interrupt):
                self.interrupt(number, frame)
        elif self.grace is not None:
            self.deadline = time.monotonic() + self.grace
        self.terminate()

    def start(self, child: Child) -> None:
        output = None if self.on_line is None else subprocess.PIPE
        process = subprocess.Popen(  # noqa: S603 - our own command
            child.command, env=child.environment, stdout=output, text=True, errors="replace"
        )
        self.processes.append(process)
        if process.stdout is not None:
            reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
            self.readers.append(reader)
            reader.start()
        if self.stopped:
            process.terminate()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self.lines.put(line)

    def wait(self) -> None:
        """Return when all have ended and their lines are read, or when the time is over."""
        while len(self.ended) < len(self.processes) and (self.deadline is None or time.monotonic() < self.deadline):
            self._reap()
            self._pass_lines(POLL_SECONDS)
        for reader in self.readers:
            reader.join(timeout=1.0)  # a grandchild may keep the pipe open
        self._pass_lines(0.0)

    def wait_silently(self) -> None:
        """Wait for the end of all, without passing on their lines."""
        self.on_line = None
        self.wait()

    def _reap(self) -> None:
        for rank, process in enumerate(self.processes):
            if rank not in self.ended and (code := process.poll()) is not None:
                self.ended[rank] = code
                if code and self.deadline is None:
                    self.deadline = time.monotonic() + self.settle

    def _pass_lines(self, seconds: float) -> None:
        """Wait some seconds for a line, and pass on all lines that have arrived."""
        if not self.readers:
            time.sleep(seconds)
            return
        try:
            line = self.lines.get(timeout=seconds) if seconds else self.lines.get_nowait()
            while True:
                if self.on_line is not None:
                    self.on_line(line)
                line = self.lines.get_nowait()
        except queue.Empty:
            return

    def terminate(self) -> None:
        for process in self.processes:
            process.terminate()

    def kill(self) -> None:
        """End those that are left."""
        for process in self.processes:
            process.kill()
            process.wait()

    def verdict(self) -> tuple[int | None, int]:
        """Return the process whose outcome counts, if there is one, and the exit code of all."""
        failed = [rank for rank, code in self.ended.items() if code]
        if not failed:
            return (0, 0) if len(self.ended) == len(self.processes) else (None, InterruptedTrainingError.exit_code)
        # One that was left alone by another ends with 1, and a large process takes its time to be gone.
        first = min(failed, key=lambda rank: self.ended[rank] == 1)
        code = self.ended[first]
        return first, code if code > 0 else SIGNALLED - code


def _exit_code_in(outcome: Path) -> int:
    """Return the exit code in the outcome of a process; 0 if there is none."""
    try:
        return int(json.loads(outcome.read_text(encoding="utf-8"))["exit_code"])
    except (ValueError, TypeError, KeyError):
        return 0

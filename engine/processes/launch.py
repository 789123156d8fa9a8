"""Starts the training processes of this machine, ends them together, and returns their exit code.

Each process reads its rank from the environment, under the names of torchrun. torchrun itself would end with 1 after
any failure; here the exit code and the outcome are those of the process that failed first.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from engine.errors import ConfigError, InterruptedTrainingError, StorageError
from engine.processes import child_process
from engine.processes.signals import handle_stop, is_second_ctrl_c, restore_handlers
from engine.processes.threads import threads_each

GRACE = 100.0
"""Seconds for a checkpoint after SIGTERM; our parent may wait for 120."""

SIGNALLED = 128
"""Exit codes above this one are 128 + the signal that ended a process."""

SETTLE = 30.0
"""Seconds in which the other processes end by themselves after one has failed."""

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """The place of a process among those of its run; the default is that of one alone.

    Attributes:
        rank: Its number; the first, 0, speaks and writes for all.
        size: How many there are.
        local_rank: Its number on its machine, and that of its GPU.
        local_size: How many there are on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Place:
        """The place that a process was given."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        defaults = (cls.rank, cls.size, cls.local_rank, cls.local_size)
        return cls(*(int(environment.get(name, default)) for name, default in zip(names, defaults, strict=True)))

    def variables(self) -> dict[str, str]:
        """Return the environment variables that :meth:`of` reads."""
        places = {"RANK": self.rank, "WORLD_SIZE": self.size}
        places |= {"LOCAL_RANK": self.local_rank, "LOCAL_WORLD_SIZE": self.local_size}
        return {name: str(value) for name, value in places.items()}

    def share(self, items: Sequence[T]) -> list[T]:
        """The part of this process: the shares of all, in order, are the whole, and differ by one item at most.

        >>> [Place(rank=rank, size=3).share(range(7)) for rank in range(3)]
        [[0, 1], [2, 3], [4, 5, 6]]
        """
        return list(items[len(items) * self.rank // self.size : len(items) * (self.rank + 1) // self.size])


def launch(
    command: Callable[[Path | None], Sequence[str]],
    *,
    processes: int,
    nodes: int = 1,
    node_rank: int = 0,
    rendezvous: str | None = None,
    outcome: Path | None = None,
    grace: float = GRACE,
    settle: float = SETTLE,
) -> int:
    """Run a command in several processes until all have ended. SIGTERM and Ctrl-C are passed on to them.

    Args:
        command: Gives the command of a process, which is to leave its outcome in the file that is handed in.
        processes: How many on this machine.
        nodes: How many machines do the same.
        node_rank: The number of this one.
        rendezvous: HOST:PORT of the first machine, where all meet; needed if there are several.
        outcome: File for the outcome of the process that speaks for all: the one that failed first, else the first.
        grace: Seconds after SIGTERM until those that are left are killed.
        settle: The same after a failure.

    Returns:
        0 if all ended well; the exit code of the one that failed first, 128 + n if signal n ended it; 143 if not even
        SIGTERM could end them.

    Raises:
        ConfigError: The places of the processes are none.
        StorageError: The outcome cannot be written.
    """
    address = _address(rendezvous, nodes=nodes, node_rank=node_rank)
    common = {**child_process.environment(), **threads_each(processes), **address}
    with TemporaryDirectory() as folder:
        left = [Path(folder, str(rank)) if outcome else None for rank in range(processes)]
        group = _Group(grace=grace, settle=settle)
        previous = handle_stop(group.stop)  # before there is a process, so that none is left behind
        try:
            for rank in range(processes):
                place = Place(node_rank * processes + rank, nodes * processes, rank, processes)
                group.start(command(left[rank]), {**common, **place.variables()})
            group.wait()
        finally:
            group.kill()
            restore_handlers(previous)
        speaker, exit_code = group.verdict()
        file = None if speaker is None else left[speaker]
        if outcome is not None and file is not None and file.exists():
            if exit_code > SIGNALLED:
                exit_code = _said(file) or exit_code  # it had said how it ends before a signal ended it
            try:
                outcome.write_bytes(file.read_bytes())
            except OSError as error:
                raise StorageError(f"the outcome cannot be written to {outcome}: {error.strerror}") from None
    return exit_code


class _Group:
    """The processes of this machine."""

    def __init__(self, *, grace: float, settle: float) -> None:
        self.grace, self.settle = grace, settle
        self.processes: list[subprocess.Popen[bytes]] = []
        self.ended: dict[int, int] = {}
        """Exit codes of those that ended by themselves, in the order in which they did."""
        self.stopped = False
        self.deadline: float | None = None

    def stop(self, number: int, frame: object) -> None:
        """SIGTERM for all; after a second Ctrl-C they are killed."""
        again = is_second_ctrl_c(number)
        self.stopped, self.deadline = True, time.monotonic() + (0 if again else self.grace)
        for process in self.processes:
            process.terminate()

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.processes.append(subprocess.Popen(command, env=environment))  # noqa: S603 - our own command
        if self.stopped:
            self.processes[-1].terminate()

    def wait(self) -> None:
        """Until all have ended, or those that are left will not."""
        while len(self.ended) < len(self.processes) and (self.deadline is None or time.monotonic() < self.deadline):
            for rank, process in enumerate(self.processes):
                if rank not in self.ended and (code := process.poll()) is not None:
                    self.ended[rank] = code
                    if code and self.deadline is None:
                        self.deadline = time.monotonic() + self.settle
            time.sleep(0.05)

    def kill(self) -> None:
        """End those that are left."""
        for process in self.processes:
            process.kill()
            process.wait()

    def verdict(self) -> tuple[int | None, int]:
        """Which process speaks for all, if one does, and the exit code of all."""
        failed = [rank for rank, code in self.ended.items() if code]
        if not failed:
            return (0, 0) if len(self.ended) == len(self.processes) else (None, InterruptedTrainingError.exit_code)
        # One that was left alone by another ends with 1, and a large process takes its time to be gone.
        first = min(failed, key=lambda rank: self.ended[rank] == 1)
        code = self.ended[first]
        return first, code if code > 0 else 128 - code


def _said(outcome: Path) -> int:
    """The exit code in what a process left; 0 if there is none."""
    try:
        return int(json.loads(outcome.read_text(encoding="utf-8"))["exit_code"])
    except (ValueError, TypeError, KeyError):
        return 0


def _address(rendezvous: str | None, *, nodes: int, node_rank: int) -> dict[str, str]:
    if not 0 <= node_rank < nodes:
        raise ConfigError(f"--node-rank is {node_rank}, and there are {nodes} nodes: count from 0")
    if rendezvous is None:
        if nodes > 1:
            raise ConfigError("--nodes needs --rendezvous: HOST:PORT of the first node, where all meet")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            rendezvous = f"127.0.0.1:{probe.getsockname()[1]}"
    host, _, port = rendezvous.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"--rendezvous is {rendezvous!r}: give HOST:PORT")
    return {"MASTER_ADDR": host, "MASTER_PORT": port}

"""Starts the training processes of this machine, ends them together, and returns their exit code.

Each process reads its rank from the environment, under the names of torchrun. torchrun itself would end with 1 after
any failure; here the exit code and the outcome are those of the process that failed first.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from engine.errors import ConfigError, StorageError
from engine.processes import child_process
from engine.processes.supervisor import SETTLE, Child, supervise
from engine.processes.threads import threads_each

GRACE = 100.0
"""Seconds for a checkpoint after SIGTERM; our parent may wait for 120."""

T = TypeVar("T")


@dataclass(frozen=True)
class Rank:
    """Rank of a process among those of its run; the default is that of a single process.

    Attributes:
        index: Number of the process from 0; process 0 logs and writes.
        size: Number of processes of the run.
        local_index: Number of the process on its machine, and of its GPU.
        local_size: Number of processes on its machine.
    """

    index: int = 0
    size: int = 1
    local_index: int = 0
    local_size: int = 1

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Rank:
        """Return the rank that the launcher set in the environment of a process."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        defaults = (cls.index, cls.size, cls.local_index, cls.local_size)
        return cls(*(int(environment.get(name, default)) for name, default in zip(names, defaults, strict=True)))

    def variables(self) -> dict[str, str]:
        """Return the environment variables that :meth:`of` reads."""
        variables = {"RANK": self.index, "WORLD_SIZE": self.size}
        variables |= {"LOCAL_RANK": self.local_index, "LOCAL_WORLD_SIZE": self.local_size}
        return {name: str(value) for name, value in variables.items()}

    def share(self, items: Sequence[T]) -> list[T]:
        """Return the share of this process; shares are consecutive, and their sizes differ by at most one.

        >>> [Rank(index=i, size=3).share(range(7)) for i in range(3)]
        [[0, 1], [2, 3], [4, 5, 6]]
        """
        return list(items[len(items) * self.index // self.size : len(items) * (self.index + 1) // self.size])


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
        command: Returns the command of a process that writes its outcome to the given file.
        processes: Number of processes on this machine.
        nodes: Number of machines that run the same.
        node_rank: Number of this machine, from 0.
        rendezvous: HOST:PORT of the first machine, where all processes connect; required for several machines.
        outcome: File for the outcome of the process that failed first, otherwise of the first process.
        grace: Seconds after SIGTERM until the remaining processes are killed.
        settle: Seconds after a failure until the remaining processes are killed.

    Returns:
        0 if all succeeded; the exit code of the process that failed first, 128 + n if signal n ended it; 143 if
        SIGTERM could not end them.

    Raises:
        ConfigError: The ranks of the processes are invalid.
        StorageError: The outcome cannot be written.
    """
    address = _address(rendezvous, nodes=nodes, node_rank=node_rank)
    common = {**child_process.environment(), **threads_each(processes), **address}
    with TemporaryDirectory() as folder:
        children = []
        for rank in range(processes):
            own = Rank(node_rank * processes + rank, nodes * processes, rank, processes)
            file = Path(folder, str(rank)) if outcome else None
            children.append(Child(command(file), {**common, **own.variables()}, file))
        ended = supervise(children, grace=grace, settle=settle)
        file = None if ended.speaker is None else children[ended.speaker].outcome
        if outcome is not None and file is not None and file.exists():
            try:
                outcome.write_bytes(file.read_bytes())
            except OSError as error:
                raise StorageError(f"the outcome cannot be written to {outcome}: {error.strerror}") from None
    return ended.exit_code


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

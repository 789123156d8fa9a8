"""Distributed training of one teacher by several processes: rendezvous, communication and shutdown.

All execute the same steps in the same order, each with its share of the images; only the first logs and writes. Each
exchange starts with an error flag from every process. So an error in one of them reaches the others at their next
exchange (:func:`joined`), and ends all of them with the same message.

Not supported: processes that join or leave during the run. If one is killed, all end, and the same command resumes from
the last checkpoint. Messages are pickled: the network must be trusted.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.errors import EXIT_ERRORS, ConfigError, InterruptedTrainingError, TeacherError
from engine.processes.launch import Rank
from engine.results.outcome import Outcome
from engine.training.device import Stop

JOIN = 3600.0
"""Seconds to wait for all processes to start: a machine may have to be provisioned for them."""

WAIT = timedelta(hours=4)
"""Timeout for another process: one per machine fetches the data, the first evaluates and publishes."""

WAIT_FOR_GPU = timedelta(minutes=15)
"""Timeout of a sum of gradients, which starts when all processes have arrived."""

T = TypeVar("T")


class Processes:
    """The processes of a run, from the perspective of one of them.

    Without arguments the run has only this process: nothing is exchanged, and torch.distributed is not needed.
    """

    def __init__(self, rank: Rank | None = None) -> None:
        self.rank = rank or Rank()
        self.first = self.rank.index == 0
        self.failure_shared = False
        """True once every process knows why the run ends."""
        self._lost = False
        self._gpus: Any = dist.new_group(backend="nccl", timeout=WAIT_FOR_GPU) if self._many and on_gpu() else None

    def sum(self, value: float) -> float:
        """Return the sum of ``value`` over all processes."""
        if not self._many:
            return value
        with self._others():
            return self._exchange(value)

    def any(self, flag: bool) -> bool:
        """Return whether ``flag`` is set in any process."""
        return self.sum(float(flag)) > 0

    def meet(self) -> None:
        """Wait until all processes arrive here."""
        self.sum(0)

    def decided(self, decide: Callable[[], T]) -> T:
        """Call ``decide`` in the first process and return its result in all processes."""
        values: list[Any] = [decide() if self.first else None]
        if self._many:
            with self._others():
                self._exchange()
                dist.broadcast_object_list(values, src=0)
        value: T = values[0]
        return value

    def gather(self, items: list[T]) -> list[T]:
        """Return the items of all processes, in rank order, in the first process; an empty list in the others."""
        if not self._many:
            return items
        parts: list[Any] | None = [None] * self.rank.size if self.first else None
        with self._others():
            self._exchange()
            dist.gather_object(items, parts)
        return [item for part in parts or [] for item in part]

    def add_up(self, parameters: Iterable[nn.Parameter], losses: Mapping[str, float]) -> dict[str, float]:
        """Sum the gradients of all processes in place, and their losses.

        A parameter without a gradient in any process keeps none; a process that saw no image has neither.

        Returns:
            The sums of the losses, by name.
        """
        if not self._many:
            return dict(losses)
        adapter = list(parameters)
        found = torch.tensor([float(p.grad is not None) for p in adapter], device=adapter[0].device)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in adapter]
        together = torch.cat([*(gradient.flatten() for gradient in gradients), found])
        parts: list[Any] = [None] * self.rank.size
        with self._others():
            self._exchange()
            dist.all_gather_object(parts, losses)
            dist.all_reduce(together, group=self._gpus if together.is_cuda else None)
        *sums, found = torch.split(together, [*(p.numel() for p in adapter), len(adapter)])
        for parameter, gradient, count in zip(adapter, sums, found.tolist(), strict=True):
            parameter.grad = gradient.view_as(parameter) if count else None
        names = {name: None for part in parts for name in part}
        return {name: sum(part.get(name, 0.0) for part in parts) for name in names}

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over all processes, in place."""
        if not self._many or not tensors:
            return
        together = torch.cat([one.flatten() for one in tensors])
        with self._others():
            self._exchange()
            dist.all_reduce(together, group=self._gpus if together.is_cuda else None)
        for one, mean in zip(tensors, torch.split(together, [one.numel() for one in tensors]), strict=True):
            one.copy_(mean.view_as(one) / self.rank.size)

    @contextmanager
    def first_on_machine(self) -> Iterator[None]:
        """Let one process per machine execute the block before the others, which then find the files it fetched."""
        if self.rank.local_index > 0:
            self.meet()
        yield
        if self.rank.local_index == 0:
            self.meet()

    def broadcast_failure(self, failure: BaseException) -> None:
        """End all processes with ``failure``, unless they know already or one is unreachable."""
        if self._many and not self.failure_shared and not self._lost:
            with suppress(TeacherError), self._others():  # a lost process must not hide the cause
                self._exchange(failure=failure)

    @property
    def _many(self) -> bool:
        return self.rank.size > 1

    def _exchange(self, value: float = 0.0, *, failure: BaseException | None = None) -> float:
        """Return the sum of ``value``; if a process has failed, raise its error in all."""
        exchanged = torch.tensor([value, failure is not None], dtype=torch.float64)
        dist.all_reduce(exchanged)
        total, failed = exchanged.tolist()
        if failed:
            records: list[Any] = [None] * self.rank.size
            dist.all_gather_object(records, None if failure is None else _error_record(failure))
            self.failure_shared = True
            if failure is None:
                raise _error(next(record for record in records if record is not None))
        return float(total)

    @contextmanager
    def _others(self) -> Iterator[None]:
        """Communicate with the others: delay stop signals until the end, and report a lost process."""
        try:
            with Stop() as stop:
                yield
        except RuntimeError as error:
            self._lost = True
            raise TeacherError(
                f"another process of the run was lost ({_short(error)}): see its last messages; the same command "
                "resumes from the last checkpoint"
            ) from error
        finally:
            if stop.requested:
                signal.raise_signal(stop.number)


ALONE = Processes()
"""A single training process."""


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the other processes of the run for the block, which all leave together.

    Raises:
        ConfigError: This machine has fewer GPUs than processes.
        TeacherError: Some did not start, or one has failed: then of the class of its error.
    """
    rank = Rank.of(os.environ)
    if rank.size == 1:
        yield ALONE
        return
    if on_gpu():
        gpus = torch.cuda.device_count()
        if rank.local_size > gpus:
            raise ConfigError(f"{rank.local_size} processes need a GPU each, but this machine has {gpus}")
        torch.cuda.set_device(rank.local_index)
    store = _meet(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), rank)
    dist.init_process_group("gloo", store=store, rank=rank.index, world_size=rank.size, timeout=WAIT)
    processes = Processes(rank)
    try:
        yield processes
        processes.meet()  # the first publishes; until it has, the run may still fail
    except BaseException as failure:
        processes.broadcast_failure(failure)
        raise
    dist.destroy_process_group()


def on_gpu() -> bool:
    """Return whether processes train on GPUs."""
    return torch.cuda.is_available()


def _meet(host: str, port: int, rank: Rank) -> Any:
    """Wait until all processes have joined; signals are handled meanwhile.

    Raises:
        TeacherError: Some did not join in time.
    """
    deadline = time.monotonic() + JOIN

    def wait(for_what: str) -> None:
        if time.monotonic() > deadline:
            raise TeacherError(f"after {JOIN / 60:.0f} minutes process {rank.index} is still waiting for {for_what}")
        time.sleep(0.2)

    while True:
        if rank.index > 0:
            while not _listens(host, port):
                wait(f"the first one, at {host}:{port}: is it running and reachable?")
        store: Any = dist.TCPStore(  # type: ignore[attr-defined]
            host, port, is_master=rank.index == 0, wait_for_workers=False, timeout=WAIT
        )
        if not store.check([f"here/{rank.index}"]):
            break
        del store  # it belongs to an earlier attempt, whose processes have not noticed yet that one is lost
        wait("the processes of an earlier attempt to end")
    store.set(f"here/{rank.index}", "")
    for index in range(rank.size):
        while not store.check([f"here/{index}"]):
            wait(f"process {index} of {rank.size}")
    return store


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


def _short(error: RuntimeError) -> str:
    """Return the cause of an error, without the source line before it and the advice after it."""
    return re.sub(r"^\[\S+\] ", "", str(error).split("\n")[0]).partition(". ")[0]


def _error_record(failure: BaseException) -> tuple[int, str]:
    """Return exit code and message; anything other than an Exception was a signal."""
    if isinstance(failure, Exception):
        outcome = Outcome.failure(failure)
        return outcome.exit_code, outcome.message
    return InterruptedTrainingError.exit_code, str(failure) or type(failure).__name__


def _error(record: tuple[int, str]) -> TeacherError:
    exit_code, message = record
    return EXIT_ERRORS.get(exit_code, TeacherError)(message)

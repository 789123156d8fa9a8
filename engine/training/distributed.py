"""Several processes that train one teacher as one: how they meet, what they tell each other, and how they end.

All do the same in the same order, each with its share of the images; the first alone speaks and writes. Before they
exchange anything they tell each other whether all is well. So an error of one, whenever it comes, is what it says next
in place of what the others wait for (:func:`joined`), and ends all of them with the same words.

Not supported: processes that come or go while the run lasts. One that is killed ends all, and the same command goes on
from the last checkpoint. What they send each other is pickled: they must be able to trust their network.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from engine.errors import EXIT_ERRORS, ConfigError, InterruptedTrainingError, TeacherError
from engine.launch import Place
from engine.outcome import Outcome
from engine.training.device import Stop

JOIN = 3600.0
"""Seconds to wait for processes that have not come yet: a machine may have to be found for them."""

WAIT = timedelta(hours=4)
"""Longest wait for another process: one of each machine fetches the data, the first measures and publishes."""

WAIT_FOR_GPU = timedelta(minutes=15)
"""Longest time of a sum of gradients, which begins when all are there."""

T = TypeVar("T")


class Processes:
    """The processes of a run, as one of them sees them.

    Without arguments there is this one alone: nothing is exchanged, and torch.distributed is not needed.
    """

    def __init__(self, place: Place | None = None) -> None:
        self.place = place or Place()
        self.first = self.place.rank == 0
        self.told = False
        """Every process knows why the run has ended."""
        self._lost = False
        self._gpus: Any = dist.new_group(backend="nccl", timeout=WAIT_FOR_GPU) if self._many and on_gpu() else None

    def sum(self, value: float) -> float:
        """The sum of ``value`` over all processes."""
        if not self._many:
            return value
        with self._others():
            return self._exchange(value)

    def any(self, flag: bool) -> bool:
        """Return whether ``flag`` is set in any process."""
        return self.sum(float(flag)) > 0

    def meet(self) -> None:
        """Wait until all are here."""
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
        """The items of all processes, in the order of these, in the first; none in the others."""
        if not self._many:
            return items
        parts: list[Any] | None = [None] * self.place.size if self.first else None
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
        parts: list[Any] = [None] * self.place.size
        with self._others():
            self._exchange()
            dist.all_gather_object(parts, losses)
            dist.all_reduce(together, group=self._gpus if together.is_cuda else None)
        *sums, found = torch.split(together, [*(p.numel() for p in adapter), len(adapter)])
        for parameter, gradient, count in zip(adapter, sums, found.tolist(), strict=True):
            parameter.grad = gradient.view_as(parameter) if count else None
        names = {name: None for part in parts for name in part}
        return {name: sum(part.get(name, 0.0) for part in parts) for name in names}

    @contextmanager
    def one_here_first(self) -> Iterator[None]:
        """On each machine one process goes through the block before the others: what it fetches, they find."""
        if self.place.local_rank > 0:
            self.meet()
        yield
        if self.place.local_rank == 0:
            self.meet()

    def tell(self, failure: BaseException) -> None:
        """End all processes with ``failure``, unless they know already or one can no longer be told."""
        if self._many and not self.told and not self._lost:
            with suppress(TeacherError), self._others():  # that one is gone hides no cause
                self._exchange(failure=failure)

    @property
    def _many(self) -> bool:
        return self.place.size > 1

    def _exchange(self, value: float = 0.0, *, failure: BaseException | None = None) -> float:
        """The sum of ``value``; if one has failed, all hear of it here and raise it."""
        told = torch.tensor([value, failure is not None], dtype=torch.float64)
        dist.all_reduce(told)
        total, failed = told.tolist()
        if failed:
            words: list[Any] = [None] * self.place.size
            dist.all_gather_object(words, None if failure is None else _words(failure))
            self.told = True
            if failure is None:
                raise _error(next(word for word in words if word is not None))
        return float(total)

    @contextmanager
    def _others(self) -> Iterator[None]:
        """Speak with the others: a stop signal waits for the end; one that does not answer is told of in a sentence."""
        try:
            with Stop() as stop:
                yield
        except RuntimeError as error:
            self._lost = True
            raise TeacherError(
                f"another process of the run was lost ({_short(error)}): see what it said last; the same command goes "
                "on from the last checkpoint"
            ) from error
        finally:
            if stop.requested:
                signal.raise_signal(stop.number)


ALONE = Processes()
"""One process that trains alone."""


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that this one was started with, for the length of the block, which they leave together.

    Raises:
        ConfigError: This machine has fewer GPUs than processes.
        TeacherError: Some have not come, or one has failed: then of the kind that its failure is.
    """
    place = Place.of(os.environ)
    if place.size == 1:
        yield ALONE
        return
    if on_gpu():
        gpus = torch.cuda.device_count()
        if place.local_size > gpus:
            raise ConfigError(f"{place.local_size} processes are to have a GPU each, and this machine has {gpus}")
        torch.cuda.set_device(place.local_rank)
    store = _meet(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), place)
    dist.init_process_group("gloo", store=store, rank=place.rank, world_size=place.size, timeout=WAIT)
    processes = Processes(place)
    try:
        yield processes
        processes.meet()  # the first publishes; until it has, the run may still fail
    except BaseException as failure:
        processes.tell(failure)
        raise
    dist.destroy_process_group()


def on_gpu() -> bool:
    """Return whether processes train on GPUs."""
    return torch.cuda.is_available()


def _meet(host: str, port: int, place: Place) -> Any:
    """Wait, open to signals, until all are here.

    Raises:
        TeacherError: Some did not come.
    """
    deadline = time.monotonic() + JOIN

    def wait(for_what: str) -> None:
        if time.monotonic() > deadline:
            raise TeacherError(f"after {JOIN / 60:.0f} minutes process {place.rank} still waits for {for_what}")
        time.sleep(0.2)

    while True:
        if place.rank > 0:
            while not _listens(host, port):
                wait(f"the first one, at {host}:{port}: does it run, and may it be reached?")
        store: Any = dist.TCPStore(  # type: ignore[attr-defined]
            host, port, is_master=place.rank == 0, wait_for_workers=False, timeout=WAIT
        )
        if not store.check([f"here/{place.rank}"]):
            break
        del store  # of those of an attempt before, who have not seen yet that one of them is gone
        wait("those of an earlier attempt to end")
    store.set(f"here/{place.rank}", "")
    for rank in range(place.size):
        while not store.check([f"here/{rank}"]):
            wait(f"process {rank} of {place.size}")
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


def _words(failure: BaseException) -> tuple[int, str]:
    """Exit code and sentence; what is no Exception was a signal."""
    if isinstance(failure, Exception):
        outcome = Outcome.failure(failure)
        return outcome.exit_code, outcome.message
    return InterruptedTrainingError.exit_code, str(failure) or type(failure).__name__


def _error(words: tuple[int, str]) -> TeacherError:
    exit_code, message = words
    return EXIT_ERRORS.get(exit_code, TeacherError)(message)

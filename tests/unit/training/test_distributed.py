from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from ports import free_port
from together import together
from torch import nn

from engine.errors import ConfigError, DataError, InterruptedTrainingError, StorageError, TeacherError
from engine.processes.launch import Rank
from engine.training import distributed
from engine.training.distributed import ALONE, Processes, joined


class Signal(BaseException):
    """What a signal handler raises."""


def layers(rank: int) -> list[nn.Parameter]:
    """Three parameters: both processes, only the second, and none have a gradient of them."""
    both, second, none = (nn.Parameter(torch.zeros(2, 3)) for _ in range(3))
    both.grad = torch.full((2, 3), float(rank + 1))
    if rank == 1:
        second.grad = torch.arange(6.0).view(2, 3)
    return [both, second, none]


def exchange(processes: Processes) -> Any:
    rank = processes.rank.index
    parameters = layers(rank)
    losses = processes.add_up(parameters, {"loss": 0.5, "l1": 0.25} if rank == 1 else {})
    return {
        "sum": processes.sum(rank + 1.5),
        "any": (processes.any(rank == 1), processes.any(False)),
        "decided": processes.decided(lambda: f"by {rank}"),
        "gathered": processes.gather([rank] * (2 - rank)),
        "losses": losses,
        "gradients": [parameter.grad for parameter in parameters],
    }


def test_what_is_exchanged_is_the_same_in_all() -> None:
    first, second = together(exchange)
    assert (first.pop("gathered"), second.pop("gathered")) == ([0, 0, 1], [])
    for told in (first, second):
        both, only_second, none = told.pop("gradients")
        assert torch.equal(both, torch.full((2, 3), 3.0))
        assert torch.equal(only_second, torch.arange(6.0).view(2, 3))
        assert none is None
        assert told == {"sum": 4.0, "any": (True, False), "decided": "by 0", "losses": {"loss": 0.5, "l1": 0.25}}


def _average(processes: Processes) -> list[list[float]]:
    tensors = [torch.full((2,), float(processes.rank.index)), torch.tensor([[4.0 * processes.rank.index + 1]])]
    processes.average(tensors)
    return [one.flatten().tolist() for one in tensors]


def test_statistics_are_averaged_over_all_processes() -> None:
    assert together(_average) == [[[0.5, 0.5], [3.0]]] * 2


def test_one_alone_needs_no_others() -> None:
    parameters = layers(1)
    before = [parameter.grad for parameter in parameters]
    assert ALONE.add_up(parameters, {"loss": 1.0}) == {"loss": 1.0}
    assert [parameter.grad for parameter in parameters] == before
    assert (ALONE.sum(2), ALONE.any(True), ALONE.decided(lambda: 3), ALONE.gather([4])) == (2, True, 3, [4])
    with joined() as processes, processes.first_on_machine():
        assert processes is ALONE
    assert not torch.distributed.is_initialized()


WAITS: dict[str, Callable[[Processes], object]] = {
    "meet": lambda processes: processes.meet(),
    "sum": lambda processes: processes.sum(1),
    "decided": lambda processes: processes.decided(lambda: 1),
    "gather": lambda processes: processes.gather([1]),
    "add_up": lambda processes: processes.add_up(layers(0), {}),
    "the end": lambda processes: None,
}


def fail_in_one(processes: Processes, failing: int, failure: BaseException, waits: str) -> None:
    processes.meet()
    if processes.rank.index == failing:
        raise failure
    WAITS[waits](processes)


@pytest.mark.parametrize("waits", WAITS)
def test_an_error_of_one_ends_all_with_its_words_wherever_they_wait(waits: str) -> None:
    failures = together(fail_in_one, 2, DataError("7.png cannot be read"), waits, count=3)
    assert [(type(failure), str(failure)) for failure in failures] == [(DataError, "7.png cannot be read")] * 3


@pytest.mark.parametrize(
    ("failure", "kind", "words"),
    [
        (StorageError("s3://a is gone"), StorageError, "s3://a is gone"),
        (ValueError("never thought of"), TeacherError, "ValueError: never thought of"),
        (Signal("SIGTERM arrived"), InterruptedTrainingError, "SIGTERM arrived"),
    ],
)
def test_errors_keep_their_kind_in_other_processes(failure: BaseException, kind: type, words: str) -> None:
    own, told = together(fail_in_one, 0, failure, "sum")
    assert (type(own), str(own)) == (type(failure), str(failure))
    assert (type(told), str(told)) == (kind, words)


def different_errors(processes: Processes) -> None:
    raise DataError(f"of {processes.rank.index}")


def test_each_keeps_its_own_error_where_several_fail() -> None:
    assert [str(failure) for failure in together(different_errors)] == ["of 0", "of 1"]


def be_killed(processes: Processes) -> None:
    if processes.rank.index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    processes.sum(1)


def test_one_that_is_killed_is_missed() -> None:
    first, killed = together(be_killed)
    assert killed is None
    assert type(first) is TeacherError
    assert "another process of the run was lost" in str(first)
    assert first.reason == "Unexpected"


def signalled_while_it_waits(processes: Processes) -> str:
    """The first is told to stop while it waits for the second, in the middle of what they exchange."""

    def stop(*_: object) -> None:
        raise Signal("stop")

    if processes.first:
        signal.signal(signal.SIGTERM, stop)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGTERM))
    else:
        time.sleep(1)
    processes.gather(["x"])
    processes.meet()
    return "not stopped"


def test_a_signal_does_not_interrupt_what_is_exchanged() -> None:
    own, told = together(signalled_while_it_waits)
    assert type(own) is Signal
    assert (type(told), str(told)) == (InterruptedTrainingError, "stop")


def fetch(processes: Processes, log: Path) -> None:
    with processes.first_on_machine():
        time.sleep(0.2 if processes.rank.local_index == 0 else 0)
        with log.open("a") as file:
            file.write(f"{processes.rank.local_index}\n")


def test_on_each_machine_one_fetches_before_the_others(tmp_path: Path) -> None:
    assert together(fetch, tmp_path / "log", count=4, here=2) == [None] * 4
    assert (tmp_path / "log").read_text().split() == ["0", "0", "1", "1"]


@pytest.mark.parametrize("rank", [0, 1])
def test_those_that_never_come_are_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    monkeypatch.setattr(distributed, "JOIN", 0.5)
    values = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))
    missing = "the first one, at 127.0.0.1" if rank else "process 1 of 2"
    with pytest.raises(TeacherError, match=f"process {rank} is still waiting for {missing}"), joined():
        pass


def test_whoever_comes_anew_waits_until_those_of_the_earlier_attempt_have_ended() -> None:
    """As a pod that takes the place of one that was killed, while the others have not noticed yet."""
    port = free_port()
    earlier = torch.distributed.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    earlier.set("here/0", "")
    earlier.set("here/1", "")
    with ThreadPoolExecutor(1) as pool:
        newcomer = pool.submit(distributed._meet, "127.0.0.1", port, Rank(index=1, size=2))
        time.sleep(0.5)
        assert not newcomer.done()
        del earlier
        first = distributed._meet("127.0.0.1", port, Rank(index=0, size=2))
        second = newcomer.result(timeout=30)
        assert first.check(["here/0", "here/1"])
        assert second.check(["here/0", "here/1"])


def test_every_process_of_a_machine_needs_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "on_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    with pytest.raises(ConfigError, match="2 processes need a GPU each, but this machine has 1"), joined():
        pass

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.processes.launch import Rank, launch
from engine.results.outcome import Outcome

HEAD = """
import os, signal, sys, time
rank = int(os.environ["RANK"])
left = sys.argv[1:]
def leave(text):
    with open(left[0], "w") as file:
        file.write(text)
"""


def start(program: str, *, processes: int = 2, outcome: Path | None = None, **options: object) -> int:
    def command(file: Path | None) -> Sequence[str]:
        return [sys.executable, "-c", HEAD + program, *([str(file)] if file else [])]

    return launch(command, processes=processes, outcome=outcome, **options)


@pytest.mark.parametrize(("items", "size"), [(0, 2), (1, 3), (7, 3), (8, 4), (3, 8)])
def test_shares_are_the_whole_in_order_and_as_equal_as_can_be(items: int, size: int) -> None:
    shares = [Rank(rank, size).share(range(items)) for rank in range(size)]
    assert [item for share in shares for item in share] == list(range(items))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_alone_has_everything() -> None:
    assert Rank.of({}) == Rank()
    assert Rank().share("abc") == ["a", "b", "c"]


def test_every_process_learns_its_place_and_where_all_meet(tmp_path: Path) -> None:
    names = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS"]
    program = f"open({str(tmp_path)!r} + f'/{{rank}}', 'w').write(' '.join(map(os.environ.get, {names})))"
    assert start(program, nodes=2, node_rank=1, rendezvous="first.svc:29500") == 0
    for rank in (2, 3):
        *place, host, port, threads = (tmp_path / str(rank)).read_text().split()
        assert (place, host, port) == ([str(rank), "4", str(rank - 2), "2"], "first.svc", "29500")
        assert int(threads) >= 1
        assert Rank.of(dict(zip(names, place, strict=False))) == Rank(rank, 4, rank - 2, 2)


def test_the_first_speaks_when_all_ended_well(tmp_path: Path) -> None:
    left = tmp_path / "outcome"
    assert start("leave(f'done {rank}')", outcome=left) == 0
    assert left.read_text() == "done 0"


@pytest.mark.parametrize("failing", [0, 1])
def test_the_one_that_failed_first_speaks_and_decides(tmp_path: Path, failing: int) -> None:
    left = tmp_path / "outcome"
    program = (
        f"leave(f'by {{rank}}'); time.sleep(0 if rank == {failing} else 0.5); sys.exit(7 if rank == {failing} else 5)"
    )
    assert start(program, outcome=left) == 7
    assert left.read_text() == f"by {failing}"


def test_one_that_was_left_alone_is_not_the_cause(tmp_path: Path) -> None:
    """It ends with 1, perhaps before the one that it lost is gone."""
    left = tmp_path / "outcome"
    assert start("leave(f'by {rank}'); time.sleep(0.5 * rank); sys.exit(6 if rank else 1)", outcome=left) == 6
    assert left.read_text() == "by 1"


def test_a_killed_process_leaves_no_word_of_another(tmp_path: Path) -> None:
    left = tmp_path / "outcome"
    assert start("os.kill(os.getpid(), 9) if rank else (leave('lost'), sys.exit(1))", outcome=left) == 137
    assert not left.exists()


def test_those_that_wait_for_one_that_failed_are_ended(tmp_path: Path) -> None:
    left, begin = tmp_path / "outcome", time.monotonic()
    program = "signal.signal(signal.SIGTERM, signal.SIG_IGN); (leave('why'), sys.exit(2)) if rank else time.sleep(60)"
    assert start(program, outcome=left, settle=0.5) == 2
    assert left.read_text() == "why"
    assert time.monotonic() - begin < 30


@pytest.mark.parametrize(
    ("heeds", "exit_code"), [("sys.exit(143)", 143), ("sys.exit(5 if rank else 143)", None), ("None", 143)]
)
def test_sigterm_is_passed_on_and_those_that_do_not_heed_it_are_killed(
    tmp_path: Path, heeds: str, exit_code: int | None
) -> None:
    program = f"""
signal.signal(signal.SIGTERM, lambda *_: {heeds})
open({str(tmp_path)!r} + f'/{{rank}}', 'w').close()
while True:
    time.sleep(0.05)
"""

    def terminate() -> None:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    killer = threading.Thread(target=terminate)
    killer.start()
    begin, before = time.monotonic(), signal.getsignal(signal.SIGTERM)
    code = start(program, grace=1.5)
    killer.join()
    assert code == exit_code or (exit_code is None and code in (5, 143))
    assert time.monotonic() - begin < 30
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"nodes": 2}, "--nodes needs --rendezvous"),
        ({"nodes": 2, "node_rank": 2, "rendezvous": "a:1"}, "--node-rank is 2, and there are 2 nodes"),
        ({"rendezvous": "a"}, "give HOST:PORT"),
        ({"rendezvous": "a:b"}, "give HOST:PORT"),
    ],
)
def test_places_that_are_none_are_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        start("sys.exit(9)", **options)


def test_a_process_that_a_signal_ends_after_it_has_said_why_ends_as_it_said(tmp_path: Path) -> None:
    said = Outcome(exit_code=42, reason="BaseModelUnavailable", message="there is none").model_dump_json()
    program = f"""
if rank == 1:
    leave({said!r})
    os.abort()
time.sleep(0.2)
sys.exit(1)
"""
    assert start(program, outcome=tmp_path / "outcome") == 42
    assert (tmp_path / "outcome").read_text() == said
    assert start("os.abort()", outcome=tmp_path / "other") == 128 + signal.SIGABRT

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy import metrics

from engine.results.types import HistoryPoint
from engine.training.checkpoint import (
    Checkpoint,
    Progress,
    checkpoint_interval,
    checkpoint_name,
    load_checkpoint,
    outdated,
    save_checkpoint,
)


def checkpoint(step: int = 3) -> Checkpoint:
    return Checkpoint(
        progress=Progress(step=step, best_ap=0.1 + 0.2, history=(HistoryPoint(step=1, epoch=1 / 3, loss=0.7),)),
        before={"val": metrics(0.25)},
        settings={"seed": 3},
        adapter={"a.lora_A.weight": torch.randn(2, 3)},
        optimizer={
            "a.lora_A.default.weight/exp_avg": torch.randn(2, 3),
            "a.lora_A.default.weight/step": torch.tensor(3.0),
        },
        best={"a.lora_A.weight": torch.randn(2, 3)},
    )


def test_comes_back_exactly(tmp_path: Path) -> None:
    written = checkpoint()
    save_checkpoint(written, tmp_path)
    read = load_checkpoint(tmp_path)
    assert read is not None
    assert (read.progress, read.before, read.settings) == (written.progress, written.before, written.settings)
    for part in ("adapter", "optimizer", "best"):
        expected, found = getattr(written, part), getattr(read, part)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_nothing_is_taken_for_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_half_a_file_is_not_taken(tmp_path: Path, share: float) -> None:
    path = save_checkpoint(checkpoint(), tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert load_checkpoint(tmp_path) is None


def test_a_flipped_bit_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    path = save_checkpoint(checkpoint(), tmp_path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert load_checkpoint(tmp_path) is None, place


def test_a_write_that_died_leaves_the_one_before(tmp_path: Path) -> None:
    save_checkpoint(checkpoint(step=3), tmp_path)
    (tmp_path / ".checkpoint.tmp").write_bytes(b"half of the ne")
    read = load_checkpoint(tmp_path)
    assert read is not None
    assert read.progress.step == 3
    save_checkpoint(checkpoint(step=4), tmp_path)
    read = load_checkpoint(tmp_path)
    assert read is not None
    assert read.progress.step == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == [checkpoint_name(3), checkpoint_name(4)]


def test_the_two_newest_are_kept(tmp_path: Path) -> None:
    for step in (3, 7, 11, 11):
        save_checkpoint(checkpoint(step), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [checkpoint_name(7), checkpoint_name(11)]


def test_the_newest_that_is_whole_is_taken_and_the_damaged_are_reported(tmp_path: Path) -> None:
    for step in (3, 7):
        save_checkpoint(checkpoint(step), tmp_path)
    newest, damaged = tmp_path / checkpoint_name(7), []
    newest.write_bytes(newest.read_bytes()[:-9])
    read = load_checkpoint(tmp_path, damaged.append)
    assert read is not None
    assert read.progress.step == 3
    assert damaged == [newest]


def test_an_attempt_that_is_behind_removes_nothing_of_one_that_is_ahead() -> None:
    names = [checkpoint_name(step) for step in (10, 20, 30, 110)]
    assert outdated([*names, "detected.safetensors"], 30) == [checkpoint_name(10)]
    assert outdated(names, 110) == [checkpoint_name(20), checkpoint_name(10)]


def test_the_interval_grows_with_the_cost_and_costs_little() -> None:
    costs = [0.01, 0.1, 1, 10, 60]
    intervals = [checkpoint_interval(cost) for cost in costs]
    assert intervals == sorted(intervals)
    assert all(cost / interval < 0.1 for cost, interval in zip(costs, intervals, strict=True))

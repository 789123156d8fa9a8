from __future__ import annotations

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from toy import settings

from engine.processes.launch import Rank
from engine.training.data.sampler import Steps, learning_rate


def steps(**changes: int) -> Steps:
    values = {"images": 10, "batch_size": 4, "micro_batch_size": 2, "epochs": 3, "evaluations": 3, "seed": 1}
    return Steps(**values | changes)


def test_every_epoch_shows_every_image_once_in_an_order_of_its_own() -> None:
    plan = steps()
    assert (plan.per_epoch, plan.total) == (3, 9)
    epochs = [[key for step in range(e * 3, e * 3 + 3) for key in chain(*plan.batches(step))] for e in range(3)]
    for epoch, keys in enumerate(epochs):
        assert {e for e, _ in keys} == {epoch}
        assert sorted(i for _, i in keys) == list(range(10))
    assert len({tuple(i for _, i in keys) for keys in epochs}) == 3
    assert [key for _, key in epochs[0]] != [key for _, key in chain(*steps(seed=2).batches(0))]


def test_the_last_step_of_an_epoch_has_what_is_left() -> None:
    assert [[len(batch) for batch in steps().batches(step)] for step in range(3)] == [[2, 2], [2, 2], [2]]
    assert [[len(batch) for batch in steps(images=9).batches(step)] for step in range(3)] == [[2, 2], [2, 2], [1]]


@pytest.mark.parametrize("size", [2, 3, 8])  # of 8 processes half have nothing to do
def test_processes_share_out_what_one_would_see(size: int) -> None:
    alone, shared = steps(), [replace(steps(), rank=Rank(rank, size)) for rank in range(size)]
    for step in range(alone.total):
        seen = [[key for batch in plan.batches(step) for key in batch] for plan in shared]
        assert list(chain(*seen)) == alone.views(step) == list(chain(*alone.batches(step)))
        assert max(map(len, seen)) - min(map(len, seen)) <= 1
        assert all(0 < len(batch) <= alone.largest_batch for plan in shared for batch in plan.batches(step))
    assert {(plan.total, plan.epochs_at(4)) for plan in shared} == {(alone.total, alone.epochs_at(4))}


def test_a_batch_of_a_step_is_that_of_one_process_where_every_process_has_one() -> None:
    alone, shared = steps(), [replace(steps(), rank=Rank(rank, 2)) for rank in range(2)]
    assert [batch for plan in shared for batch in plan.batches(0)] == alone.batches(0)


def test_batches_from_a_step_are_the_rest_of_all_batches() -> None:
    plan = steps()
    everything = list(plan.batches_from(0))
    assert list(plan.batches_from(4)) == everything[len([*plan.batches(0), *plan.batches(1), *plan.batches(2)]) + 2 :]


@pytest.mark.parametrize(
    ("epochs", "evaluations", "after"), [(3, 9, [1, 2, 3]), (10, 3, [4, 7, 10]), (5, 1, [5]), (1, 1, [1])]
)
def test_evaluations_are_spread_over_the_epochs_and_end_with_the_last(
    epochs: int, evaluations: int, after: list[int]
) -> None:
    plan = steps(epochs=epochs, evaluations=evaluations)
    measured = [done for done in range(plan.total + 1) if plan.evaluated_after(done)]
    assert measured == [epoch * plan.per_epoch for epoch in after]
    assert plan.evaluations_left(0) == len(after)
    assert plan.evaluations_left(plan.total) == 0


def test_learning_rate_rises_to_the_peak_and_falls_as_a_cosine() -> None:
    wanted = settings(learning_rate=0.1, warmup_fraction=0.2)
    rates = [learning_rate(step, 10, wanted) for step in range(10)]
    assert rates[:3] == pytest.approx([0.05, 0.1, 0.1])
    assert rates[6] == pytest.approx(0.05)  # half way through the cosine
    assert rates[9] == pytest.approx(0.1 * 0.5 * (1 - 0.9238795))  # cos(7/8 pi)


def test_learning_rate_without_warmup_stays_where_it_is() -> None:
    wanted = settings(learning_rate=0.1, warmup_fraction=0, schedule="constant")
    assert [learning_rate(step, 4, wanted) for step in range(4)] == [0.1] * 4


def test_an_early_stop_passes_the_rest_of_the_schedule_in_a_tenth_of_the_steps() -> None:
    plan = steps(images=8, epochs=50, evaluations=10)  # 2 steps an epoch
    stopped = replace(plan, stopped_at=41)
    assert (plan.total, stopped.total, stopped.planned) == (100, 51, 100)
    assert [done for done in range(30, 52) if stopped.evaluated_after(done)] == [30, 40, 50, 51], "the end is evaluated"
    assert [stopped.evaluations_left(done) for done in (29, 40, 50, 51)] == [4, 2, 1, 0]
    wanted = settings(learning_rate=0.1, warmup_fraction=0.2)
    rates = [learning_rate(stopped.scheduled_at(step), stopped.planned, wanted) for step in range(stopped.total)]
    assert rates[:41] == [learning_rate(step, 100, wanted) for step in range(41)]
    assert rates[41:] == sorted(rates[41:], reverse=True)
    assert rates[-1] < 0.002
    assert replace(plan, stopped_at=95).total == 100
    assert replace(plan, stopped_at=41, anneals=False).total == 41


def test_images_of_a_step_have_like_shapes_and_each_is_still_shown_once_an_epoch() -> None:
    rng = np.random.default_rng(0)
    shapes = tuple(int(shape) for shape in rng.choice([-3, 0, 3], 500))
    mixed = Steps(images=500, batch_size=8, epochs=2, evaluations=1, seed=3)
    sorted_ = replace(mixed, shapes=shapes)

    def kinds(steps: Steps) -> float:
        return float(np.mean([len({shapes[i] for _, i in steps.views(step)}) for step in range(steps.per_epoch)]))

    assert kinds(mixed) > 2.5
    assert kinds(sorted_) < 1.3
    for epoch in range(2):
        shown = [view for step in range(63) for view in sorted_.views(63 * epoch + step)]
        assert sorted(shown) == [(epoch, i) for i in range(500)]
    first = [shapes[sorted_.views(step)[0][1]] for step in range(16)]
    assert first != sorted(first), "steps of a window are shuffled"
    assert sorted_.views(5) == replace(mixed, shapes=shapes).views(5)

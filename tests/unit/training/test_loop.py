from __future__ import annotations

import os
import re
import signal
from dataclasses import replace
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from loops import nonempty
from together import together
from toy import metrics, overlap, toy_loop

from engine.config import LoraSettings
from engine.errors import InterruptedTrainingError, LossNotFiniteError, TeacherError
from engine.models.lora import adapter_tensors
from engine.results.events import Event
from engine.spec import LoraPreset
from engine.training import loop as loop_module
from engine.training.checkpoint import Progress, load_checkpoint
from engine.training.data.sampler import Steps
from engine.training.device import Stop
from engine.training.distributed import ALONE, Processes
from engine.training.loop import Loop

WITHOUT_NOISE = LoraSettings(preset=LoraPreset.ALL, rank=8, alpha=16, dropout=0)
"""Dropout noise differs between processes."""


def weights(loop: Loop) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in adapter_tensors(loop.teacher).items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def without_time(progress: Progress) -> Progress:
    return progress.model_copy(update={"seconds": 0, "peak_memory_bytes": 0})


def test_learns_what_it_has_not_seen(tmp_path: Path) -> None:
    losses: list[float] = []
    loop = toy_loop(tmp_path, images=128, epochs=15, hooks={"listen": lambda e: losses.append(e.loss or 0)})
    before = overlap(loop.teacher, range(1000, 1032)).ap
    progress = loop.run()
    assert before < 0.3
    assert progress.best_ap is not None
    assert progress.best_ap > before + 0.3
    points = [point.loss for point in progress.history if point.loss is not None]
    assert points[-1] < points[0] / 2


def test_only_the_adapter_changes(tmp_path: Path) -> None:
    loop = toy_loop(tmp_path)
    frozen = {n: p.clone() for n, p in loop.teacher.model.named_parameters() if "lora_" not in n}
    fresh = weights(loop)
    loop.run()
    parameters = dict(loop.teacher.model.named_parameters())
    assert all(torch.equal(value, parameters[name]) for name, value in nonempty(frozen.items()))
    assert all(not torch.equal(value, weights(loop)[name]) for name, value in nonempty(fresh.items()))


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    runs = [toy_loop(tmp_path / str(i)) for i in range(2)]
    for i, loop in enumerate(runs):
        torch.manual_seed(i)  # what happened before must not matter
        loop.run()
    assert_same(weights(runs[0]), weights(runs[1]))


# 3 steps an epoch, evaluations after 6, 12 and 18 steps: first, mid-epoch, at and beside an evaluation, last.
@pytest.mark.parametrize("kill_at", [1, 5, 6, 7, 11, 12, 17, 18])
def test_sigterm_then_resume_ends_with_the_same_weights(tmp_path: Path, kill_at: int) -> None:
    whole = toy_loop(tmp_path / "whole")
    expected = whole.run()

    def kill(event: Event) -> None:
        if event.event == "step" and event.step == kill_at:
            os.kill(os.getpid(), signal.SIGTERM)

    with Stop() as stop:
        killed = toy_loop(tmp_path / "killed", stop=stop, hooks={"listen": kill})
        with pytest.raises(InterruptedTrainingError, match=f"after step {kill_at} of 18"):
            killed.run()
    resumed = toy_loop(tmp_path / "killed", start=load_checkpoint(tmp_path / "killed"))
    assert resumed.progress.step == kill_at
    assert without_time(resumed.run()) == without_time(expected)
    assert_same(weights(resumed), weights(whole))
    assert_same(resumed.best, whole.best)


def test_sigterm_in_an_evaluation_loses_no_step_and_measures_again(tmp_path: Path) -> None:
    whole = toy_loop(tmp_path / "whole")
    expected = whole.run()
    with Stop() as stop:

        def interrupted() -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            stop.check()

        killed = toy_loop(tmp_path / "killed", stop=stop, hooks={"evaluate": interrupted})
        with pytest.raises(InterruptedTrainingError, match="after step 6 of 18"):
            killed.run()
    resumed = toy_loop(tmp_path / "killed", start=load_checkpoint(tmp_path / "killed"))
    assert resumed.progress.evaluated_step == 0
    assert without_time(resumed.run()) == without_time(expected)
    assert_same(weights(resumed), weights(whole))


def in_a_process(folder: Path, steps: Connection, kill_at: int | None) -> None:
    """Train, telling each step; ends as the command line does."""
    torch.set_num_threads(1)
    loop_module.checkpoint_interval = lambda cost: 0.0  # after every step; the process ends with this

    def listen(event: Event) -> None:
        if event.event == "step":
            steps.send(event.step)
            if event.step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    with Stop() as stop:
        try:
            loop = toy_loop(folder, epochs=200, stop=stop, hooks={"listen": listen})
            loop.run()
        except TeacherError as error:
            os._exit(error.exit_code)


@pytest.mark.parametrize(("kill_at", "exit_code"), [(4, -signal.SIGKILL), (13, -signal.SIGKILL), (None, 143)])
def test_a_killed_process_is_resumed_exactly(tmp_path: Path, kill_at: int | None, exit_code: int) -> None:
    """SIGKILL leaves the last timed checkpoint; SIGTERM from outside, at any moment, one of the step it finished."""
    told, tell = Pipe(duplex=False)
    process = get_context("fork").Process(target=in_a_process, args=(tmp_path / "killed", tell, kill_at))
    process.start()
    for _ in range(kill_at or 10):
        told.recv()
    if kill_at is None:
        process.terminate()
    process.join()
    assert process.exitcode == exit_code
    checkpoint = load_checkpoint(tmp_path / "killed")
    assert checkpoint is not None
    done = checkpoint.progress.step
    assert done == kill_at - 1 if kill_at else done >= 10

    runs = {"whole": None, "resumed": checkpoint}
    ends = {}
    for name, start in runs.items():
        stop = Stop()

        def stop_later(event: Event, stop: Stop = stop) -> None:
            stop.requested = event.step == done + 7

        loop = toy_loop(tmp_path / name, epochs=200, start=start, stop=stop, hooks={"listen": stop_later})
        with pytest.raises(InterruptedTrainingError):
            loop.run()
        ends[name] = weights(loop)
    assert_same(ends["resumed"], ends["whole"])


def test_patience_stops_a_constant_rate_and_the_best_adapter_is_the_earlier_of_equals(tmp_path: Path) -> None:
    aps = iter([0.2, 0.4, 0.4, 0.3, 0.9])
    kept: list[dict[str, torch.Tensor]] = []
    changes = {"epochs": 5, "evaluations": 5, "patience": 2, "schedule": "constant"}
    loop = toy_loop(
        tmp_path,
        hooks={"evaluate": lambda: metrics(next(aps)), "keep_best": lambda: kept.append(weights(loop))},
        **changes,
    )
    progress = loop.run()
    assert progress.step == 12  # 3 steps an epoch, 4 evaluations
    assert (progress.best_ap, progress.best_step, progress.waited) == (0.4, 6, 2)
    assert len(kept) == 2
    assert_same(kept[-1], loop.best)
    stopped = load_checkpoint(tmp_path)
    assert stopped is not None
    assert toy_loop(tmp_path, start=stopped, **changes).run().step == 12


def impatient(folder: Path, **changes: Any) -> Loop:
    """A loop of 60 steps that stops early after 9: without a better AP at steps 6 and 9; with the last step it is."""
    loop = toy_loop(folder, epochs=20, evaluations=20, patience=2, lora=WITHOUT_NOISE, **changes)
    aps = {3: 0.4, 6: 0.3, 9: 0.3, 12: 0.35, 15: 0.5}
    loop.hooks = replace(loop.hooks, evaluate=lambda: metrics(aps[loop.progress.step]))
    return loop


def test_an_early_stop_does_not_cut_off_the_end_of_the_cosine(tmp_path: Path) -> None:
    events: list[Event] = []
    progress = impatient(tmp_path, hooks={"listen": events.append}).run()
    assert (progress.step, progress.stopped_at) == (15, 9)
    rates = [event.learning_rate or 0 for event in events if event.event == "step"]
    assert max(rates[6:]) == rates[6], "the rate only falls"
    assert rates[-1] < 0.1 * rates[8], "to nearly zero"
    assert (progress.best_ap, progress.best_step) == (0.5, 15), "the last adapter is evaluated"
    assert {event.steps for event in events if event.event == "step" and (event.step or 0) > 9} == {15}
    notes = [event.message or "" for event in events if event.event == "note"]
    assert notes == [
        "no better AP in 2 evaluations: training ends in 6 more steps, while the learning rate decays, after 15 of 60 "
        "steps"
    ]


@pytest.mark.parametrize("kill_at", [8, 9, 10, 14, 15])
def test_a_run_killed_around_an_early_stop_ends_with_the_same_weights(tmp_path: Path, kill_at: int) -> None:
    whole = impatient(tmp_path / "whole")
    expected = whole.run()

    def kill(event: Event) -> None:
        if event.event == "step" and event.step == kill_at:
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = f"after step {kill_at} of {60 if kill_at < 10 else 15}"
    with Stop() as stop, pytest.raises(InterruptedTrainingError, match=stopped):
        impatient(tmp_path / "killed", stop=stop, hooks={"listen": kill}).run()
    resumed = impatient(tmp_path / "killed", start=load_checkpoint(tmp_path / "killed"))
    assert without_time(resumed.run()) == without_time(expected)
    assert_same(weights(resumed), weights(whole))


def test_patience_near_the_end_changes_nothing(tmp_path: Path) -> None:
    aps = iter([0.4, 0.3, 0.2])
    hooks = {"evaluate": lambda: metrics(next(aps))}
    progress = toy_loop(tmp_path, epochs=3, evaluations=3, patience=2, hooks=hooks).run()
    assert (progress.step, progress.stopped_at) == (9, None)


def stop_together(processes: Processes, folder: Path) -> tuple[Progress, dict[str, torch.Tensor]]:
    loop = impatient(folder / str(processes.rank.index), processes=processes)
    return loop.run(), weights(loop)


def test_several_processes_stop_early_at_the_same_step(tmp_path: Path) -> None:
    ends = together(stop_together, tmp_path)
    assert [progress.step for progress, _ in ends] == [15, 15]
    assert_same(ends[0][1], ends[1][1])


def test_a_loss_that_is_not_finite_stops_and_keeps_the_best(tmp_path: Path) -> None:
    loop = toy_loop(tmp_path)
    batches = loop.hooks.batches

    def poisoned(steps: Steps, step: int) -> object:
        for number, batch in enumerate(batches(steps, step)):
            if number == 15:
                batch["boxes"][0, 0] = float("nan")
            yield batch

    loop = toy_loop(tmp_path, hooks={"batches": poisoned})
    with pytest.raises(LossNotFiniteError, match=r"at step \d+ of 18 .*best adapter so far is kept"):
        loop.run()
    assert all(torch.isfinite(tensor).all() for tensor in nonempty(weights(loop).values()))
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint is not None
    assert_same(checkpoint.best, loop.best)


def test_events_tell_how_far_it_is_and_what_is_left(tmp_path: Path) -> None:
    events: list[Event] = []
    toy_loop(tmp_path, hooks={"listen": events.append}).run()
    steps = [event for event in events if event.event == "step"]
    assert [event.step for event in steps] == list(range(1, 19))
    assert steps[-1].epoch == 6
    assert steps[-1].seconds_left is not None
    assert steps[0].losses is not None
    assert steps[0].losses.keys() == {"l1", "label"}
    assert [event.step for event in events if event.event == "evaluation"] == [6, 12, 18]
    assert [event.step for event in events if event.event == "checkpoint"] == [6, 12, 18]


def test_the_last_of_the_events_are_enough_to_know_how_good_it_is(tmp_path: Path) -> None:
    events: list[Event] = []
    aps = iter([0.2, 0.4, 0.3])
    hooks = {"listen": events.append, "evaluate": lambda: metrics(next(aps))}
    loop = toy_loop(tmp_path, hooks=hooks)
    loop.start = replace(loop.start, before={"val": metrics(0.1)})
    loop.run()
    assert {event.ap_before for event in events} == {0.1}
    best = {(event.event, event.step): event.best_ap for event in events}
    assert [best["step", step] for step in (6, 7, 13)] == [None, 0.2, 0.4]
    assert [best["evaluation", step] for step in (6, 12, 18)] == [0.2, 0.4, 0.4]
    assert best["checkpoint", 18] == 0.4


def test_nothing_below_the_base_is_called_the_best(tmp_path: Path) -> None:
    events: list[Event] = []
    aps = iter([0.2, 0.25, 0.4])
    loop = toy_loop(tmp_path, hooks={"listen": events.append, "evaluate": lambda: metrics(next(aps))})
    loop.start = replace(loop.start, before={"val": metrics(0.3)})
    progress = loop.run()
    told = [(event.best, event.best_ap) for event in events if event.event == "evaluation"]
    assert told == [(False, None), (False, None), (True, 0.4)]
    assert progress.best_ap == 0.4


def train_together(processes: Processes, folder: Path, images: int) -> tuple[Progress, dict[str, torch.Tensor]]:
    loop = toy_loop(folder / str(processes.rank.index), images=images, lora=WITHOUT_NOISE, processes=processes)
    return loop.run(), weights(loop)


# 21 images in steps of 8: the last step of an epoch has 5. Of 3 images, two of five processes see none.
@pytest.mark.parametrize(("count", "images"), [(2, 21), (5, 3)])
def test_several_processes_end_where_one_would(tmp_path: Path, count: int, images: int) -> None:
    progress, alone = train_together(ALONE, tmp_path, images)
    ends = together(train_together, tmp_path / "together", images, count=count)
    for its_progress, its_weights in nonempty(ends):
        assert_same(its_weights, ends[0][1])
        assert [point.step for point in its_progress.history] == [point.step for point in progress.history]
        assert its_progress.best_step == progress.best_step
        assert its_progress.best_ap == pytest.approx(progress.best_ap, abs=1e-4)
        losses = [[point.loss for point in one.history if point.loss is not None] for one in (its_progress, progress)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for name, tensor in alone.items():
        torch.testing.assert_close(ends[0][1][name], tensor, rtol=1e-3, atol=1e-5)
    assert {path.parent.name for path in (tmp_path / "together").glob("*/*.safetensors")} == {"0"}


def stopped_together(processes: Processes, folder: Path, signalled: int) -> object:
    """One of them gets SIGTERM after its 7th step; then what it leaves is gone on from, by all."""

    def kill(event: Event) -> None:
        if event.event == "step" and event.step == 7 and processes.rank.index == signalled:
            os.kill(os.getpid(), signal.SIGTERM)

    with Stop() as stop:
        loop = toy_loop(folder, lora=WITHOUT_NOISE, processes=processes, stop=stop, hooks={"listen": kill})
        try:
            loop.run()
        except InterruptedTrainingError as stopped:
            words = str(stopped)
    start = processes.decided(lambda: load_checkpoint(folder))
    loop = toy_loop(folder, lora=WITHOUT_NOISE, processes=processes, start=start)
    return words, start.progress.step, without_time(loop.run()), weights(loop)


@pytest.mark.parametrize("signalled", [0, 1])
def test_sigterm_to_one_process_stops_all_after_the_same_step(tmp_path: Path, signalled: int) -> None:
    whole = toy_loop(tmp_path / "whole", lora=WITHOUT_NOISE)
    whole.run()
    ends = together(stopped_together, tmp_path / "stopped", signalled)
    for words, step, progress, its_weights in nonempty(ends):
        assert "stopped after step 7 of 18" in words
        assert (step, progress) == (7, ends[0][2])
        assert_same(its_weights, ends[0][3])
        for name, tensor in weights(whole).items():
            torch.testing.assert_close(its_weights[name], tensor, rtol=1e-3, atol=1e-5)


def poisoned_in_one(processes: Processes, folder: Path) -> None:
    loop = toy_loop(folder, processes=processes)
    batches = loop.hooks.batches

    def poisoned(steps: Steps, step: int) -> object:
        for number, batch in enumerate(batches(steps, step)):
            if number == 9 and processes.rank.index == 1:
                batch["boxes"][0, 0] = float("nan")
            yield batch

    loop.hooks = replace(loop.hooks, batches=poisoned)
    loop.run()


def test_a_loss_that_is_not_finite_in_one_process_is_so_in_all(tmp_path: Path) -> None:
    failures = together(poisoned_in_one, tmp_path)
    assert [type(failure) for failure in failures] == [LossNotFiniteError] * 2
    assert len({str(failure) for failure in failures}) == 1
    assert re.search(r"at step \d+ of 18 .*best adapter so far is kept", str(failures[0]))

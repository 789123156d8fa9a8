from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine.progress import Event
from engine.training.progress import tensorboard, thinned


def step(number: int, *, time: float, loss: float = 1.0) -> Event:
    return Event(event="step", step=number, time=time, loss=loss, losses={"l1": loss / 2})


def test_at_most_one_step_in_the_time_with_the_mean_loss_since_the_last() -> None:
    told: list[Event] = []
    listen = thinned(told.append, seconds=10)
    for number in range(1, 8):
        listen(step(number, time=4.0 * number, loss=number))
    assert [(event.step, event.loss) for event in told] == [(1, 1.0), (4, 3.0), (7, 6.0)]


def test_other_events_pass_at_once_after_the_step_before_them() -> None:
    told: list[Event] = []
    listen = thinned(told.append, seconds=10)
    for event in (step(1, time=0), step(2, time=1), Event(event="evaluation", step=2, ap=0.5), step(3, time=2)):
        listen(event)
    assert [(event.event, event.step) for event in told] == [("step", 1), ("step", 2), ("evaluation", 2)]


def test_tensorboard_shows_loss_and_ap_and_forgets_what_a_resumed_run_does_again(tmp_path: Path) -> None:
    with tensorboard(tmp_path) as listen:
        for number in (1, 2, 3):
            listen(step(number, time=number, loss=number))
        listen(Event(event="evaluation", step=3, ap=0.25, phase="adapted"))
    with tensorboard(tmp_path) as listen:
        listen(step(3, time=5, loss=30))
    read = EventAccumulator(str(tmp_path)).Reload()
    assert [(s.step, s.value) for s in read.Scalars("train/loss")] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert read.Scalars("train/l1")[0].value == pytest.approx(0.5)

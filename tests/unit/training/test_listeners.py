from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine.evaluation.example_images import DetectionsRecord, SampleRecord, SampleView
from engine.results.events import Event
from engine.results.metrics import ApMetrics
from engine.results.types import AdapterFile, TeacherResult
from engine.spec import TeacherName
from engine.training.listeners import TensorBoard, thinned


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
    with closing(TensorBoard(tmp_path)) as listen:
        for number in (1, 2, 3):
            listen(step(number, time=number, loss=number))
        listen(Event(event="evaluation", step=3, ap=0.25, phase="adapted"))
    with closing(TensorBoard(tmp_path)) as listen:
        listen(step(3, time=5, loss=30))
    read = EventAccumulator(str(tmp_path)).Reload()
    assert [(s.step, s.value) for s in read.Scalars("train/loss")] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert read.Scalars("train/l1")[0].value == pytest.approx(0.5)


def test_tensorboard_shows_base_and_adapted_in_one_chart(tmp_path: Path) -> None:
    with closing(TensorBoard(tmp_path)) as listen:
        listen(Event(event="evaluation", step=0, ap=0.1, ap_before=0.1, phase="base"))
        listen(Event(event="evaluation", step=5, ap=0.4, ap_before=0.1, phase="adapted"))
    runs = {run: EventAccumulator(str(tmp_path / run)).Reload().Scalars("ap/val") for run in ("", "base")}
    assert [(s.step, pytest.approx(s.value)) for s in runs[""]] == [(5, 0.4)]
    assert [(s.step, pytest.approx(s.value)) for s in runs["base"]] == [(0, 0.1), (5, 0.1)]


def test_tensorboard_shows_pictures_and_settings_with_the_metrics_they_led_to(
    tmp_path: Path,
) -> None:
    boxes = DetectionsRecord(boxes_xyxy=((3, 3, 20, 20),), scores=(0.9,), class_indices=(0,))
    record = SampleRecord(
        index=0, file_name="0.jpg", width=120, height=80, classes=("bolt",), truth=boxes, before=boxes, after=boxes
    )
    metrics = ApMetrics.model_validate(
        {name: 0.4 for name, field in ApMetrics.model_fields.items() if field.is_required()} | {"per_class": {}}
    )
    result = TeacherResult(
        teacher=TeacherName.GROUNDING_DINO,
        base_model="tiny",
        base_revision=None,
        before=metrics,
        after=metrics,
        epochs=1,
        steps=7,
        seconds=1,
        peak_memory_bytes=1,
        trainable_parameters=1,
        adapter=AdapterFile(uri="a", sha256="b", size_bytes=1),
    )
    with closing(TensorBoard(tmp_path)) as board:
        board.summarize({"LoRA": "rank 8"}, result, [SampleView(np.zeros((80, 120, 3), np.uint8), record)])
    read = EventAccumulator(str(tmp_path)).Reload()
    (tag,) = read.Tags()["images"]
    assert tag == "truth, base, adapted/0.jpg"
    assert read.Images(tag)[0].width == 3 * 240
    assert read.Scalars("hparam/ap")[0].value == pytest.approx(0.4)
    session = read.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"rank 8" in session

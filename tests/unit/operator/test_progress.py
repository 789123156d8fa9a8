"""How far a trainer is, from the last lines of its log: whatever they hold, what comes of it fits into the status."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tft_objects import NOW, teacher_of, view_of
from tft_schema import status_errors

from engine.results.events import Event
from teacher_operator.api.status import ProgressStatus, TeacherFineTuneStatus
from teacher_operator.decide.progress import NOTE_MAX, ProgressView, percent_text, plain_lines, read_progress
from teacher_operator.decide.stage_results import progress_text, with_progress


def line(event: str, **values: Any) -> str:
    return Event(event=event, teacher="sam", time=NOW, **values).line()


def step(number: int, **values: Any) -> str:
    known = {"steps": 400, "epoch": 1.5, "epochs": 12, "loss": 1.23456, "seconds_left": 2461.7, "memory_bytes": 10**10}
    return line("step", step=number, **{**known, **values})


def test_a_step_line_reports_progress() -> None:
    assert read_progress([step(148)]) == ProgressView(
        ProgressStatus(
            percent=37,
            step=148,
            steps=400,
            epoch="1.50",
            epochs=12,
            loss="1.235",
            seconds_left=2461,
            memory_bytes=10**10,
            updated="2026-03-01T12:00:00Z",
        )
    )


def test_a_step_of_several_trainings_names_the_current_one() -> None:
    view = read_progress([step(300, trial=3, trials=4)])
    assert view.progress is not None
    assert (view.progress.trial, view.progress.trials, view.progress.percent) == (3, 4, 75)
    stage = with_progress(teacher_of("Sam"), view)
    assert progress_text(stage, view, "").startswith("training 3 of 4, epoch 1.50 of 12")


def test_the_newest_line_counts() -> None:
    view = read_progress([step(1), "Downloading", step(2), step(3, loss=0.5)])
    assert view.progress is not None
    assert (view.progress.step, view.progress.loss) == (3, "0.5")


def test_values_missing_in_a_line_are_kept() -> None:
    view = read_progress([step(10)])
    view = read_progress([line("checkpoint", step=11, steps=400)], view)
    assert view.progress is not None
    assert (view.progress.step, view.progress.loss, view.progress.seconds_left) == (11, "1.235", 2461)
    assert (view.progress.epochs, view.progress.memory_bytes) == (12, 10**10)
    assert read_progress([], view) == view


def test_reading_the_same_lines_again_changes_nothing() -> None:
    lines = [step(1), line("evaluation", step=5, steps=400, phase="adapted", ap=0.4), step(6), "x", step(7)]
    view = read_progress(lines)
    assert read_progress(lines, view) == view


def test_an_evaluation_line_reports_ap_of_base_and_adapter() -> None:
    base = line("evaluation", step=0, steps=400, phase="base", ap=0.312)
    view = read_progress([base])
    assert (view.ap_before, view.ap_after) == (0.312, None)
    better = line("evaluation", step=50, steps=400, phase="adapted", ap=0.5)
    worse = line("evaluation", step=60, steps=400, phase="adapted", ap=0.4)
    view = read_progress([better, worse], view)
    assert (view.ap_before, view.ap_after) == (0.312, 0.5)
    assert view.progress is not None
    assert view.progress.note == ""
    on_test = line("evaluation", step=60, steps=400, phase="test", ap=0.9)
    assert read_progress([on_test], view).ap_after == 0.5


def test_an_adapter_below_the_base_is_not_the_best_so_far() -> None:
    base = line("evaluation", step=0, steps=400, phase="base", ap=0.312)
    worse = line("evaluation", step=50, steps=400, phase="adapted", ap=0.2)
    view = read_progress([base, worse])
    assert (view.ap_before, view.ap_after, view.evaluated) == (0.312, None, True)
    assert read_progress([step(60, ap_before=0.3, best_ap=0.2)]).ap_after is None, "of an earlier trainer"
    better = line("evaluation", step=90, steps=400, phase="adapted", ap=0.4)
    assert read_progress([better], view).ap_after == 0.4


def test_the_last_line_alone_reports_both() -> None:
    view = read_progress([step(60, ap_before=0.3, best_ap=0.45)])
    assert (view.ap_before, view.ap_after) == (0.3, 0.45)


def test_a_note_keeps_earlier_progress() -> None:
    assert read_progress([line("note", message="resuming after step 3")]).progress is None
    view = read_progress([step(3), line("note", message="x" * 5000)])
    assert view.progress is not None
    assert view.progress.step == 3
    assert len(view.progress.note) == NOTE_MAX
    view = read_progress([step(4)], view)
    assert view.progress is not None
    assert view.progress.note == ""


def test_before_the_first_step_the_latest_note_is_reported() -> None:
    view = read_progress([line("note", message="fetching the data"), line("note", message="x" * 5000), "Loading"])
    assert (view.progress, view.note) == (None, "x" * NOTE_MAX)
    assert read_progress([], view).note == view.note
    view = read_progress([line("start", step=0, steps=400)], view)
    assert (view.note, view.progress is None) == ("", False)


def test_the_base_may_be_measured_before_the_number_of_steps_is_known() -> None:
    told = line("evaluation", step=0, epoch=0, ap=0.25, ap_before=0.25, phase="base")
    view = read_progress([line("note", message="measuring the base"), told, line("note", message="waiting")])
    assert (view.progress, view.ap_before, view.ap_after, view.note) == (None, 0.25, None, "waiting")
    view = read_progress([line("start", step=0, steps=400, epochs=2, ap_before=0.25)], view)
    assert view.progress is not None
    assert (view.progress.steps, view.ap_before, view.note) == (400, 0.25, "")


def test_no_percentage_before_the_number_of_steps_is_known() -> None:
    assert read_progress([line("start", step=0), line("step", step=1, steps=0)]).progress is None


@pytest.mark.parametrize(("done", "percent"), [(0, 0), (1, 0), (399, 99), (400, 100), (401, 100)])
def test_all_of_the_steps_and_no_less_are_a_hundred_percent(done: int, percent: int) -> None:
    view = read_progress([step(done)])
    assert view.progress is not None
    assert view.progress.percent == percent


GARBAGE = [
    "",
    "   ",
    "Epoch 1: 37%|###",
    "{}",
    "{not json",
    '{"event": "step"',
    '{"event": "dance", "step": 1, "steps": 2}',
    '["event", "step"]',
    '{"event": "step", "step": "many", "steps": 2}',
    "\x00\x1b[31mred",
    "{" * 10_000,
    "x" * 1_000_000,
]


@pytest.mark.parametrize("text", GARBAGE, ids=range(len(GARBAGE)))
def test_other_lines_are_passed_over(text: str) -> None:
    view = read_progress([step(3)])
    assert read_progress([text], view) == view
    assert read_progress([text]) == ProgressView()


@pytest.mark.parametrize("name", ["epoch", "loss", "seconds_left", "time", "ap", "ap_before", "best_ap"])
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "1e300", "-1e300"])
@pytest.mark.parametrize("event", ["step", "evaluation"])
def test_invalid_numbers_are_ignored(event: str, name: str, value: str) -> None:
    known = {"event": event, "phase": "adapted", "time": NOW, "step": 4, "steps": 8}
    text = json.dumps({key: known[key] for key in known if key != name})[:-1] + f', "{name}": {value}}}'
    _fits(read_progress([step(3), text, step(5)]))


NUMBERS = st.one_of(
    st.none(), st.floats(), st.integers(), st.sampled_from([-1, 0, 2**63, 10**30, 1e300, float("nan"), float("inf")])
)


@settings(deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"event": st.sampled_from(["start", "step", "evaluation", "checkpoint", "note", "done", "error"])},
            optional={
                **dict.fromkeys(
                    (
                        "time",
                        "step",
                        "steps",
                        "epoch",
                        "epochs",
                        "loss",
                        "seconds_left",
                        "memory_bytes",
                        "ap",
                        "ap_before",
                        "best_ap",
                    ),
                    NUMBERS,
                ),
                "phase": st.sampled_from(["base", "adapted", "test"]),
                "message": st.text(max_size=20),
            },
        ),
        max_size=5,
    )
)
def test_any_lines_result_in_a_valid_status(events: list[dict[str, Any]]) -> None:
    """Anybody who may run a pod can write such lines, and one operator reads those of all."""
    view = read_progress(json.dumps(event) for event in events)
    _fits(view)
    _fits(read_progress([step(3)], view))


def _fits(view: ProgressView) -> None:
    teacher = with_progress(teacher_of(state="Training"), view_of(progress=view).progress)
    assert status_errors(TeacherFineTuneStatus(teachers=[teacher])) == []
    for value in (view.ap_before, view.ap_after):
        assert value is None or -1 <= value <= 1


@pytest.mark.parametrize("ap", [1.01, 2, -1.01, -0.5e9])
def test_an_invalid_ap_is_ignored(ap: float) -> None:
    known = ProgressView(None, 0.25, 0.5)
    for values in ({"ap_before": ap}, {"best_ap": ap}):
        view = read_progress([step(1, **values)], known)
        assert (view.ap_before, view.ap_after) == (0.25, 0.5)
    view = read_progress([line("evaluation", step=1, steps=2, phase="adapted", ap=ap)], known)
    assert view.ap_after == 0.5


def test_lines_for_people_are_those_that_are_no_progress() -> None:
    assert plain_lines([step(1), "", "  ", "Traceback", step(2), "ValueError: x", "{}"]) == [
        "Traceback",
        "ValueError: x",
        "{}",
    ]


@pytest.mark.parametrize(
    ("percents", "text"), [([], ""), ([37], "37%"), ([100, 0], "50%"), ([100, 99], "99%"), ([100, 100], "100%")]
)
def test_of_several_teachers_the_mean_is_reported(percents: list[int], text: str) -> None:
    assert percent_text(percents) == text

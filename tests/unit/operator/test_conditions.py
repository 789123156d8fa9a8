"""From what is true of a run to what people and tools read: conditions, columns, events."""

from __future__ import annotations

from typing import Any

import pytest
from tft_objects import BOXES, MASKS, NOW, ROOT, info_of, teacher_of, trained_of
from tft_schema import status_errors

from engine.dataset.types import ClassInfo, Problem, Severity
from engine.results.outcome import Outcome
from engine.spec import OnNoGain, TeacherName
from teacher_operator.api.status import (
    CLASSES,
    MESSAGE_MAX,
    PROBLEMS,
    AttemptStatus,
    FailureStatus,
    MetricStatus,
    ProgressStatus,
    TeacherFineTuneStatus,
    TeacherStatus,
)
from teacher_operator.decide.conditions import (
    RunEvent,
    Summary,
    columns,
    events,
    is_terminal,
    published_teacher,
    summary_condition,
    with_conditions,
)
from teacher_operator.decide.dataset_status import dataset_status
from teacher_operator.decide.stage_results import succeeded

TYPES = ["DatasetInspected", "Reconciling", "Stalled", "Succeeded"]
SUMMARIES = {
    "active": Summary.active("Training", "Sam: evaluating"),
    "suspended": Summary.suspended("suspended while its data was inspected"),
    "succeeded": Summary.succeeded("Sam: AP 0.312 -> 0.518"),
    "failed": Summary.failed("DataInvalid", "Sam: the data is wrong"),
    "stuck": Summary.stuck("ConfigurationInvalid", "spec.nodeSelector: not a label"),
}


def conditioned(
    status: TeacherFineTuneStatus, summary: Summary | None, *, generation: int = 1, now: float = NOW, **values: Any
) -> TeacherFineTuneStatus:
    result = with_conditions(status, summary, generation=generation, now=now, **values)
    assert status_errors(result) == []
    return result


def values(status: TeacherFineTuneStatus) -> dict[str, str]:
    return {one.type: one.status.value for one in status.conditions}


def reason(status: TeacherFineTuneStatus, kind: str = "Succeeded") -> str:
    return next(one.reason for one in status.conditions if one.type == kind)


def message(status: TeacherFineTuneStatus, kind: str = "Succeeded") -> str:
    return next(one.message for one in status.conditions if one.type == kind)


def progress(percent: int = 37, **values: Any) -> ProgressStatus:
    return ProgressStatus(percent=percent, step=percent, steps=100, **values)


# Conditions.


@pytest.mark.parametrize("summary", SUMMARIES.values(), ids=SUMMARIES)
def test_all_four_conditions_exist_after_the_first_reconciliation(summary: Summary) -> None:
    status = conditioned(TeacherFineTuneStatus(), summary, generation=3)
    assert [one.type for one in status.conditions] == TYPES
    assert {one.observed_generation for one in status.conditions} == {status.observed_generation} == {3}
    assert all(one.reason for one in status.conditions)


@pytest.mark.parametrize(
    ("summary", "expected"),
    [
        ("active", {"Reconciling": "True", "Stalled": "False", "Succeeded": "Unknown"}),
        ("suspended", {"Reconciling": "False", "Stalled": "False", "Succeeded": "Unknown"}),
        ("succeeded", {"Reconciling": "False", "Stalled": "False", "Succeeded": "True"}),
        ("failed", {"Reconciling": "False", "Stalled": "True", "Succeeded": "False"}),
        ("stuck", {"Reconciling": "False", "Stalled": "True", "Succeeded": "Unknown"}),
    ],
)
def test_kstatus_reads_the_health_right(summary: str, expected: dict[str, str]) -> None:
    found = values(conditioned(TeacherFineTuneStatus(), SUMMARIES[summary]))
    assert {kind: found[kind] for kind in expected} == expected


@pytest.mark.parametrize("summary", SUMMARIES.values(), ids=SUMMARIES)
def test_the_summary_has_reason_and_message(summary: Summary) -> None:
    status = conditioned(TeacherFineTuneStatus(), summary)
    condition = summary_condition(status)
    assert condition is not None
    assert (condition.reason, condition.message) == (summary.reason, summary.message)
    assert is_terminal(status) == (summary.state in {"succeeded", "failed"})
    assert (status.completion_time is not None) == is_terminal(status)


def improved(name: TeacherName, *, better: bool | None) -> TeacherStatus:
    outcome = trained_of(name, after=0.5 if better else 0.3).model_copy(update={"improved": better})
    return succeeded(TeacherStatus(name=name, state="Training"), Outcome(trained=outcome), now=NOW)


def test_whether_adapters_are_better_is_reported_once_it_is_known() -> None:
    pending = TeacherStatus(name=MASKS, state="Pending")
    cases = [
        ([pending], None),
        ([improved(BOXES, better=None)], None),
        ([improved(BOXES, better=True), pending], ("Unknown", "NotMeasured")),
        ([improved(BOXES, better=False), pending], ("False", "NotBetterThanBase")),
        ([improved(BOXES, better=True), improved(MASKS, better=True)], ("True", "BetterThanBase")),
        ([improved(BOXES, better=True), improved(MASKS, better=False)], ("False", "NotBetterThanBase")),
    ]
    for teachers, expected in cases:
        status = conditioned(TeacherFineTuneStatus(teachers=teachers), SUMMARIES["succeeded"])
        found = [(one.status.value, one.reason) for one in status.conditions if one.type == "Improved"]
        assert found == ([expected] if expected else [])
        assert values(status)["Succeeded"] == "True"
    assert message(status, "Improved").startswith("Sam: the adapter is not better than its base (AP 0.312 -> 0.300")


def test_an_adapter_without_a_gain_is_an_event_once() -> None:
    before = TeacherFineTuneStatus(teachers=[TeacherStatus(name=MASKS, state="Training")])
    after = TeacherFineTuneStatus(teachers=[improved(MASKS, better=False)])
    (note,) = [one for one in events(before, after) if one.kind == "Warning"]
    assert note.reason == "NotBetterThanBase"
    assert "AP 0.312 -> 0.300" in note.message
    assert not [one for one in events(after, after) if one.kind == "Warning"]
    fine = TeacherFineTuneStatus(teachers=[improved(MASKS, better=True)])
    assert not [one for one in events(before, fine) if one.kind == "Warning"]


@pytest.mark.parametrize("better", [False, pytest.param(None, id="too-few-images")])
def test_an_adapter_of_strength_0_is_reported_as_its_base_everywhere(better: bool | None) -> None:
    outcome = trained_of(MASKS, before=0.312, after=0.312)
    outcome = outcome.model_copy(update={"improved": better, "strength": 0.0, "retention": 1.0})
    pending = TeacherStatus(name=MASKS, state="Training")
    teacher = succeeded(pending, Outcome(trained=outcome), now=NOW)
    said = "no adapter was better than the base, so the published one has strength 0 and gives the base's results"
    assert teacher.message == f"AP 0.312: {said}"
    assert teacher.adapter is not None
    assert (teacher.adapter.strength, teacher.adapter.retention) == ("0", "1.000")
    status = conditioned(TeacherFineTuneStatus(teachers=[teacher]), SUMMARIES["succeeded"])
    if better is False:
        assert message(status, "Improved").startswith(f"Sam: {said} (AP 0.312 on the validation split). Use the base")
    assert status.summary.map == "0.31 -> 0.31 (no gain)"
    notes = events(TeacherFineTuneStatus(teachers=[pending]), TeacherFineTuneStatus(teachers=[teacher]))
    assert [one.reason for one in notes if one.kind == "Warning" and said in one.message] == ["NotBetterThanBase"]
    again = published_teacher(MASKS, outcome, on_no_gain=OnNoGain.FAIL, now=NOW)
    assert (again.state, again.failure and again.failure.reason) == ("Failed", "NotBetterThanBase")


def test_strength_and_retention_are_in_the_status() -> None:
    outcome = trained_of(MASKS).model_copy(update={"strength": 0.7, "retention": 0.8312})
    teacher = succeeded(TeacherStatus(name=MASKS, state="Training"), Outcome(trained=outcome), now=NOW)
    assert teacher.adapter is not None
    assert (teacher.adapter.strength, teacher.adapter.retention) == ("0.7", "0.831")
    assert columns([teacher]).map == "0.31 -> 0.52"


def test_nothing_is_stalled_that_has_not_failed() -> None:
    assert message(conditioned(TeacherFineTuneStatus(), SUMMARIES["active"]), "Stalled") == ""
    assert message(conditioned(TeacherFineTuneStatus(), SUMMARIES["failed"]), "Stalled") == "Sam: the data is wrong"


@pytest.mark.parametrize(("summary", "value"), [("active", "Unknown"), ("suspended", "Unknown"), ("failed", "False")])
def test_before_the_data_is_known_its_condition_goes_with_the_run(summary: str, value: str) -> None:
    assert values(conditioned(TeacherFineTuneStatus(), SUMMARIES[summary]))["DatasetInspected"] == value


@pytest.mark.parametrize("summary", SUMMARIES.values(), ids=SUMMARIES)
def test_the_condition_of_an_inspected_dataset_describes_it(summary: Summary) -> None:
    problem = Problem(code="missing_image", severity=Severity.WARNING, count=3000, message="m", advice="a")
    status = conditioned(TeacherFineTuneStatus(dataset=dataset_status(info_of(problems=[problem]))), summary)
    assert values(status)["DatasetInspected"] == "True"
    assert reason(status, "DatasetInspected") == "Inspected"
    assert message(status, "DatasetInspected") == (
        "1,000 of 1,020 images, 5,210 of 5,300 objects, 5,210 masks, 2 classes; warning missing_image 3,000x"
    )


def test_a_time_of_transition_moves_only_with_the_status_of_its_condition() -> None:
    status = conditioned(TeacherFineTuneStatus(), Summary.active("Inspecting", "a"), now=NOW)
    status = conditioned(status, Summary.active("Training", "b"), now=NOW + 60, generation=2)
    assert {one.last_transition_time for one in status.conditions} == {"2026-03-01T12:00:00Z"}
    status = conditioned(status, Summary.suspended("c"), now=NOW + 120)
    times = {one.type: one.last_transition_time for one in status.conditions}
    assert times == {
        "DatasetInspected": "2026-03-01T12:00:00Z",
        "Reconciling": "2026-03-01T12:02:00Z",
        "Stalled": "2026-03-01T12:00:00Z",
        "Succeeded": "2026-03-01T12:00:00Z",
    }


def test_of_a_run_that_has_ended_only_the_generation_is_inspected() -> None:
    before = conditioned(TeacherFineTuneStatus(), SUMMARIES["failed"])
    after = conditioned(before, None, generation=5, now=NOW + 1000)
    assert {one.observed_generation for one in after.conditions} == {5}
    same = after.model_copy(update={"observed_generation": 1, "conditions": before.conditions})
    assert same == before


def test_the_message_includes_as_much_of_the_log_as_fits() -> None:
    status = conditioned(TeacherFineTuneStatus(), SUMMARIES["failed"], log=["one", "two"])
    assert message(status) == "Sam: the data is wrong\nLast lines of its log:\none\ntwo"
    status = conditioned(TeacherFineTuneStatus(), SUMMARIES["failed"], log=["x" * 512] * 20)
    assert len(message(status)) == MESSAGE_MAX
    assert message(status).endswith("…")


@pytest.mark.parametrize("make", [Summary.active, Summary.failed])
def test_a_message_of_any_length_has_room(make: Any) -> None:
    status = conditioned(TeacherFineTuneStatus(), make("Pending", "x" * 10_000))
    assert {len(one.message) for one in status.conditions} <= {0, MESSAGE_MAX}


def test_unknown_conditions_of_others_do_no_harm() -> None:
    status = conditioned(TeacherFineTuneStatus(), SUMMARIES["active"])
    foreign = status.conditions[0].model_copy(update={"type": "Paused"})
    status = conditioned(status.model_copy(update={"conditions": [*status.conditions, foreign]}), SUMMARIES["active"])
    assert len({one.type for one in status.conditions}) == len(status.conditions)


# The data.


def test_the_inspection_result_is_bounded_and_sorted_by_severity() -> None:
    problems = [
        Problem(code=f"info_{n}", severity=Severity.INFO, count=1, message="m" * 9000, advice="a" * 9000)
        for n in range(30)
    ]
    problems += [
        Problem(code="bad", severity=Severity.ERROR, count=2, message="m", advice="a"),
        Problem(code="so_so", severity=Severity.WARNING, count=2, message="m", advice="a"),
    ]
    classes = tuple(ClassInfo(id=n, name=f"{n}" * 600, annotations=1, images=1) for n in range(100))
    info = info_of(problems=problems).model_copy(update={"classes": classes, "classes_left_out": 900})
    data = dataset_status(info, uri="s3://m/run/dataset.json")
    assert [one.code for one in data.problems[:3]] == ["bad", "so_so", "info_0"]
    assert (len(data.problems), len(data.classes), data.class_count) == (PROBLEMS, CLASSES, 1000)
    assert (data.problems_left_out, data.classes_left_out) == (32 - PROBLEMS, 1000 - CLASSES)
    status = conditioned(TeacherFineTuneStatus(dataset=data), SUMMARIES["active"])
    assert message(status, "DatasetInspected").endswith(
        "12 more problems and 936 classes only in s3://m/run/dataset.json"
    )


# Columns.


def test_the_columns_of_a_run_that_trains() -> None:
    boxes = teacher_of(
        BOXES,
        "Training",
        progress=progress(50, seconds_left=120),
        metrics=[MetricStatus(name="ap", before="0.312", after="0.518")],
        attempts=[AttemptStatus(pod="a", node="gpu-1"), AttemptStatus(pod="b", node="gpu-2")],
    )
    masks = teacher_of(
        MASKS, "Training", progress=progress(25, seconds_left=2465), metrics=[MetricStatus(name="ap", before="0.610")]
    )
    shown = columns([boxes, masks])
    assert shown.teachers == "GroundingDino,Sam"
    assert shown.progress == "37%"
    assert shown.time_left == "41m"
    assert shown.map == "0.31 -> 0.52, 0.61 -> …"
    assert shown.nodes == "gpu-2"


def test_the_columns_before_anything_is_known() -> None:
    assert columns([]).model_dump() == dict.fromkeys(("teachers", "progress", "time_left", "map", "nodes"), "")
    shown = columns([teacher_of(BOXES), teacher_of(MASKS)])
    assert (shown.teachers, shown.progress, shown.time_left, shown.map) == ("GroundingDino,Sam", "", "", "")


def test_the_columns_of_a_run_that_is_done() -> None:
    teachers = [
        succeeded(
            teacher_of(BOXES, "Training", progress=progress(99, seconds_left=5)),
            Outcome(trained=trained_of(BOXES)),
            now=NOW,
        ),
        published_teacher(MASKS, trained_of(MASKS), now=NOW),
    ]
    assert teachers[0].progress == progress(100).model_copy(update={"step": 99})
    shown = columns(teachers)
    assert shown.progress == "100%"
    assert (shown.time_left, shown.nodes) == ("", "")
    assert shown.map == "0.31 -> 0.52, 0.31 -> 0.52"


def test_a_teacher_that_is_done_counts_as_a_whole() -> None:
    teachers = [
        published_teacher(BOXES, trained_of(BOXES), now=NOW),
        teacher_of(MASKS, "Training", progress=progress(50)),
    ]
    assert columns(teachers).progress == "75%"


def test_time_left_is_that_of_teachers_that_train() -> None:
    failed = teacher_of(BOXES, "Failed", progress=progress(10, seconds_left=9000))
    trains = teacher_of(MASKS, "Training", progress=progress(90, seconds_left=60))
    assert columns([failed, trains]).time_left == "60s"
    assert columns([failed]).time_left == ""


@pytest.mark.parametrize("state", ["Pending", "Queued", "Starting", "Training", "Suspended"])
def test_no_time_is_left_to_tell_while_a_teacher_has_not_begun(state: str) -> None:
    trains = teacher_of(BOXES, "Training", progress=progress(98, seconds_left=5))
    assert columns([trains, teacher_of(MASKS, state)]).time_left == ""


def test_teachers_on_one_node_show_it_once() -> None:
    teachers = [
        teacher_of(name, "Training", attempts=[AttemptStatus(pod="a", node="gpu-1")]) for name in (BOXES, MASKS)
    ]
    assert columns(teachers).nodes == "gpu-1"


# Teachers.


def test_a_new_teacher_is_pending_without_results() -> None:
    assert published_teacher(MASKS, None, now=NOW) == TeacherStatus(name=MASKS, state="Pending")


def test_an_already_published_teacher_names_its_adapter() -> None:
    teacher = published_teacher(MASKS, trained_of(), now=NOW)
    assert teacher.state == "Succeeded"
    assert teacher.message == "AP 0.312 -> 0.518; published by an earlier, identical run"
    assert teacher.adapter is not None
    assert teacher.adapter.uri == f"{ROOT}/teachers/sam_lora/adapter_model.safetensors"
    assert (teacher.adapter.sha256, teacher.adapter.size_bytes) == ("a" * 64, 5_000_000)
    assert (teacher.ap.before, teacher.ap.after) == ("0.312", "0.518")


def test_a_metric_that_was_not_measured_is_empty() -> None:
    """COCO writes -1 where there is nothing to measure."""
    teacher = succeeded(teacher_of(), Outcome(trained=trained_of(before=-1, after=-1)), now=NOW)
    assert (teacher.ap.before, teacher.ap.after, columns([teacher]).map) == ("", "", "")
    assert teacher.message == "AP not measured -> not measured"
    assert "-1" not in teacher.model_dump_json()


def test_a_success_forgets_the_failures_on_the_way() -> None:
    failure = FailureStatus(reason="Crashed", message="x", pod="a")
    teacher = succeeded(teacher_of(state="Training", failure=failure), Outcome(trained=trained_of()), now=NOW)
    assert (teacher.failure, teacher.completion_time) == (None, "2026-03-01T12:00:00Z")


# Events.


def run_of_teachers(*teachers: TeacherStatus, summary: Summary | None = None) -> TeacherFineTuneStatus:
    status = TeacherFineTuneStatus(teachers=list(teachers), dataset=dataset_status(info_of()))
    return with_conditions(status, summary or SUMMARIES["active"], generation=1, now=NOW)


def failure_of(pod: str, word: str = "Crashed") -> FailureStatus:
    return FailureStatus(reason=word, message=f"{pod} has failed", pod=pod)


def test_mere_progress_is_no_event() -> None:
    before = run_of_teachers(teacher_of(state="Training", progress=progress(1), message="a"))
    after = run_of_teachers(
        teacher_of(
            state="Training",
            progress=progress(2),
            message="b",
            gpu_seconds=9,
            metrics=[MetricStatus(name="ap", before="0.1")],
        ),
        summary=Summary.active("Training", "something else"),
    )
    assert list(events(before, after)) == list(events(after, after)) == []


@pytest.mark.parametrize("state", ["Training", "Succeeded", "Suspended"])
def test_a_teacher_that_gets_on_is_reported_once(state: str) -> None:
    before, after = run_of_teachers(teacher_of()), run_of_teachers(teacher_of(state=state, message="words"))
    assert list(events(before, after)) == [RunEvent("Normal", state, "Sam: words")]


def test_waiting_is_no_event() -> None:
    before = run_of_teachers(teacher_of(state="Pending"), summary=Summary.active("Pending", "x"))
    for state in ("Queued", "Starting", "Pending"):
        after = run_of_teachers(teacher_of(state=state), summary=Summary.active(state, "x"))
        assert list(events(before, after)) == []


@pytest.mark.parametrize("state", ["Training", "Pending", "Starting", "Queued"])
def test_a_failed_attempt_is_reported_once_in_any_state_of_the_teacher(state: str) -> None:
    before = run_of_teachers(teacher_of(state="Training"))
    after = run_of_teachers(teacher_of(state=state, failure=failure_of("a")))
    warning = RunEvent("Warning", "Crashed", "Sam: a has failed")
    assert [note for note in events(before, after) if note.kind == "Warning"] == [warning]
    assert list(events(after, after)) == []
    again = run_of_teachers(teacher_of(state="Training", failure=failure_of("a")))
    assert [note for note in events(after, again) if note.kind == "Warning"] == []
    second = run_of_teachers(teacher_of(state=state, failure=failure_of("b")))
    assert [note.message for note in events(after, second)] == ["Sam: b has failed"]


def test_the_end_of_a_teacher_is_reported_though_its_last_attempt_was() -> None:
    before = run_of_teachers(teacher_of(state="Pending", failure=failure_of("a")), teacher_of(BOXES))
    after = run_of_teachers(teacher_of(state="Failed", failure=failure_of("a")), teacher_of(BOXES))
    assert list(events(before, after)) == [RunEvent("Warning", "Crashed", "Sam: a has failed")]
    assert list(events(after, after)) == []


def test_the_end_of_a_run_is_one_event() -> None:
    before = run_of_teachers(teacher_of(state="Training"))
    after = run_of_teachers(
        teacher_of(state="Failed", failure=failure_of("a")), summary=Summary.failed("Crashed", "Sam: a has failed")
    )
    assert list(events(before, after)) == [RunEvent("Warning", "Failed", "Crashed: Sam: a has failed")]
    assert list(events(after, after)) == []


def test_a_run_that_fails_before_its_teachers_are_known_is_reported() -> None:
    before = with_conditions(TeacherFineTuneStatus(), Summary.active("Inspecting", "x"), generation=1, now=NOW)
    after = with_conditions(before, SUMMARIES["failed"], generation=1, now=NOW)
    assert list(events(before, after)) == [RunEvent("Warning", "Failed", "DataInvalid: Sam: the data is wrong")]


def test_inspection_is_reported_when_it_begins() -> None:
    after = with_conditions(TeacherFineTuneStatus(), Summary.active("Inspecting", "x"), generation=1, now=NOW)
    assert list(events(TeacherFineTuneStatus(), after)) == [RunEvent("Normal", "Inspecting", "x")]


def test_a_run_that_succeeds_is_reported() -> None:
    before = run_of_teachers(teacher_of(state="Training"))
    done = succeeded(teacher_of(state="Training"), Outcome(trained=trained_of()), now=NOW)
    after = run_of_teachers(done, summary=Summary.succeeded("all"))
    assert list(events(before, after)) == [RunEvent("Normal", "Succeeded", "all")]


def test_the_teacher_that_ends_first_has_an_event_of_its_own() -> None:
    training = teacher_of(BOXES, state="Training")
    before = run_of_teachers(teacher_of(state="Training"), training)
    after = run_of_teachers(succeeded(teacher_of(state="Training"), Outcome(trained=trained_of()), now=NOW), training)
    assert list(events(before, after)) == [RunEvent("Normal", "Succeeded", "Sam: AP 0.312 -> 0.518")]

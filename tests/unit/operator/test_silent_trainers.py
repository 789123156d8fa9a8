"""Trainers from which nothing is heard: on a node that is lost, or in a process that hangs."""

from __future__ import annotations

from typing import Any

import pytest
from tft_objects import MASKS, NAME, NAMESPACE, NOW, pod_of, teacher_of
from tft_world import World

from engine.results.events import Event
from teacher_operator.api.names import inspect_job, trainer_job
from teacher_operator.api.status import ProgressStatus, TeacherFineTuneStatus
from teacher_operator.api.timestamps import timestamp
from teacher_operator.decide.conditions import Summary, columns, events, with_conditions
from teacher_operator.decide.lost_nodes import not_ready_since
from teacher_operator.decide.progress import GAP_MAX, ProgressView, read_progress
from teacher_operator.decide.silent_trainers import LEAST_SECONDS, expected_gap

JOB = trainer_job(NAME, MASKS)
LOST = f"node gpu-node-1 is not ready since {timestamp(NOW + 180)}"


def line(event: str, at: float, **values: Any) -> str:
    return Event(event=event, time=at, **values).line()


def step(at: float, number: int = 10, **values: Any) -> str:
    return line("step", at, **{"step": number, "steps": 100, "seconds_left": 2400.0, **values})


def trains(*lines: str, **spec: Any) -> World:
    """Return a run whose trainer has written these lines."""
    world = World(teachers=[MASKS], **spec)
    world.training()
    world.logs[world.pod(MASKS)["metadata"]["name"]] = list(lines) or [step(NOW)]
    world.reconcile()
    return world


def responding(world: World) -> tuple[str, str, str] | None:
    found = [one for one in world.status.conditions if one.type == "Responding"]
    return (found[0].status.value, found[0].reason, found[0].message) if found else None


# Lost nodes.


def test_a_lost_node_is_reported_with_the_last_progress() -> None:
    world = trains()
    assert responding(world) is None
    world.advance(180)
    world.lose_node(world.pod(MASKS))
    decision = world.reconcile()
    said = f"{LOST}; last progress 2m ago"
    assert world.state == ("Unknown", "Training")
    assert said in world.summary[2]
    assert responding(world) == ("False", "NodeNotReady", f"Sam: {said}")
    assert decision.actions.requeue_at == world.now + 60, "the words age"
    world.advance(3000)
    world.reconcile()
    assert "last progress 30m ago" in world.summary[2]
    world.find_node(world.pod(MASKS))
    world.logs[world.pod(MASKS)["metadata"]["name"]] = [step(world.now)]
    world.reconcile()
    assert "not ready" not in world.summary[2]
    assert responding(world) == ("True", "HeardFrom", "")
    world.run_fairly()
    assert responding(world) is None


def test_a_node_that_is_lost_before_the_first_step_is_reported() -> None:
    world = World(teachers=[MASKS])
    world.training()
    world.advance(180)
    world.lose_node(world.pod(MASKS))
    world.reconcile()
    assert f"{LOST}; no progress was read" in world.summary[2]


def test_of_several_nodes_the_lost_one_is_named() -> None:
    world = World(teachers=[MASKS], nodes=2)
    world.training()
    first, second = world.pods_of(world.job(MASKS))
    second["spec"]["nodeName"] = "gpu-node-2"
    world.advance(180)
    world.lose_node(second)
    world.reconcile()
    assert "node gpu-node-2 is not ready since" in world.summary[2]
    assert "gpu-node-1" not in world.summary[2]
    assert first["spec"]["nodeName"] == "gpu-node-1"


def test_the_node_of_an_inspection_may_be_lost_and_its_time_counts_no_more() -> None:
    world = World()
    world.reconcile()
    world.controllers()
    world.run(world.pod())
    world.advance(180)
    world.lose_node(world.pod())
    world.advance(5 * 86_400)
    world.reconcile()
    assert world.state == ("Unknown", "Inspecting")
    assert LOST in world.summary[2]


@pytest.mark.parametrize(
    ("ready", "containers", "lost"),
    [
        ({"status": "False"}, "True", True),
        ({"status": "True"}, "True", False),
        ({"status": "False", "reason": "ContainersNotReady"}, "False", False),
        ({"status": "False", "reason": "ReadinessGatesNotReady"}, "True", False),
        ({"status": "False"}, "False", False),
    ],
)
def test_only_the_mark_of_the_node_controller_is_that_of_a_lost_node(
    ready: dict[str, str], containers: str, lost: bool
) -> None:
    conditions = [
        {"type": "ContainersReady", "status": containers},
        {"type": "Ready", "lastTransitionTime": timestamp(NOW), **ready},
    ]
    assert not_ready_since(pod_of(phase="Running", started=NOW, conditions=conditions)) == (NOW if lost else None)
    assert not_ready_since(pod_of(phase="Failed", started=NOW, conditions=conditions)) is None


def test_a_pod_stuck_on_a_lost_node_has_advice() -> None:
    world = trains()
    world.advance(180)
    pod = world.pod(MASKS)
    world.lose_node(pod)
    world.delete_pod(pod)
    world.reconcile()
    assert world.state == ("Unknown", "Pending")
    assert f"is being stopped; {LOST}" in world.summary[2]
    assert "--force" not in world.summary[2]
    world.advance(120 + 700)
    world.reconcile()
    name = pod["metadata"]["name"]
    assert "the node has not confirmed it for 10m" in world.summary[2]
    assert "kubectl delete node gpu-node-1" in world.summary[2]
    assert f"kubectl delete pod {name} --namespace {NAMESPACE} --force" in world.summary[2]
    found = responding(world)
    assert found is not None
    assert found[:2] == ("False", "NodeNotReady")


@pytest.mark.parametrize("suspended", [False, True])
def test_a_pod_that_is_deleted_by_force_frees_its_run(suspended: bool) -> None:
    """Its Job would wait for good: for a phase that no kubelet reports."""
    world = trains()
    pod = world.pod(MASKS)
    world.lose_node(pod)
    world.edit(suspend=suspended)
    world.reconcile()
    world.delete_by_force(pod)
    world.reconcile()
    assert not world.job(MASKS)["metadata"].get("deletionTimestamp"), "a kubelet that answers has its time"
    world.advance(31)
    world.reconcile()
    assert "deleted by force" in world.summary[2]
    assert world.job(MASKS)["metadata"].get("deletionTimestamp")
    world.controllers()
    assert list(world.live_pods()) == []
    world.reconcile()
    assert world.made.count(JOB) == (1 if suspended else 2)
    world.run_fairly()
    assert world.made.count(JOB) == 2
    assert world.state == ("True", "Succeeded")


def test_an_inspection_pod_that_is_deleted_by_force_frees_its_run() -> None:
    world = World()
    world.reconcile()
    world.controllers()
    pod = world.pod()
    world.run(pod)
    world.lose_node(pod)
    world.delete_by_force(pod)
    world.advance(31)
    world.reconcile()
    assert "deleted by force" in world.summary[2]
    world.controllers()
    world.run_fairly()
    assert world.made.count(inspect_job(NAME)) == 2
    assert world.state == ("True", "Succeeded")


def test_a_suspended_run_reports_its_stuck_pod() -> None:
    world = trains()
    pod = world.pod(MASKS)
    world.lose_node(pod)
    world.edit(suspend=True)
    world.reconcile()
    world.controllers()
    world.advance(120 + 700)
    decision = world.reconcile()
    assert world.state == ("Unknown", "Suspended")
    assert "the node has not confirmed it for 10m" in world.summary[2]
    assert decision.actions.requeue_at is not None


# Stale progress.


def test_progress_is_stale_after_a_silence_longer_than_its_pace() -> None:
    world = trains(step(NOW))
    world.advance(LEAST_SECONDS - 1)
    decision = world.reconcile()
    assert responding(world) is None
    assert decision.actions.requeue_at == world.now + 1
    world.advance(1)
    world.reconcile()
    found = responding(world)
    assert found is not None
    assert found[:2] == ("False", "ProgressStale")
    assert f"no progress since {timestamp(NOW)}, 10m ago; at its pace a line was due within 10m" in found[2]
    assert f"kubectl logs job/{JOB} -c trainer" in world.summary[2]
    world.logs[world.pod(MASKS)["metadata"]["name"]] = [step(world.now, 11)]
    world.reconcile()
    assert responding(world) == ("True", "HeardFrom", "")


def test_a_slow_pace_and_long_evaluations_are_no_silence() -> None:
    known = {"percent": 0, "step": 0, "steps": 100}
    assert expected_gap(ProgressStatus(**known)) == 600
    assert expected_gap(ProgressStatus(**known, seconds_left=30_000)) == 3000
    assert expected_gap(ProgressStatus(**known, longest_gap_seconds=1500)) == 4500
    assert expected_gap(ProgressStatus(percent=100, step=100, steps=100, seconds_left=0)) == 3600


def test_the_longest_gap_is_measured_from_the_first_line_on_and_kept() -> None:
    lines = [line("note", NOW), line("evaluation", NOW + 900, ap=0.3, phase="base"), step(NOW + 910), step(NOW + 920)]
    view = read_progress(lines)
    assert view.progress is not None
    assert view.progress.longest_gap_seconds == 900
    again = read_progress(lines, view)
    assert again.progress == view.progress
    world = trains(*lines)
    world.logs[world.pod(MASKS)["metadata"]["name"]] = [step(NOW + 930)]  # the last lines, as after a restart
    world.reconcile()
    progress = world.teacher().progress
    assert progress is not None
    assert progress.longest_gap_seconds == 900


def test_a_clock_that_is_set_makes_no_gap_of_years() -> None:
    view = read_progress([step(NOW - 1e9), step(NOW)])
    assert view.progress is not None
    assert view.progress.longest_gap_seconds == GAP_MAX


def test_an_attempt_that_has_not_come_to_a_step_is_not_stale() -> None:
    world = trains(step(NOW))
    world.advance(1000)
    world.end(world.pod(MASKS), 1)
    world.controllers()
    world.run(world.pod(MASKS))
    world.reconcile()
    world.advance(5000)
    world.reconcile()
    assert world.state == ("Unknown", "Training")
    assert responding(world) is None


def test_an_operator_that_has_just_started_knows_from_the_status() -> None:
    world = trains(step(NOW))
    world.logs.clear()
    world.advance(5000)
    world.reconcile()
    found = responding(world)
    assert found is not None
    assert found[1] == "ProgressStale"


def test_silence_is_an_event_once() -> None:
    before = TeacherFineTuneStatus(teachers=[teacher_of(MASKS, "Training")])
    world = trains(step(NOW))
    world.advance(5000)
    world.reconcile()
    told = list(events(before, world.status))
    assert [(one.kind, one.reason) for one in told if one.reason == "ProgressStale"] == [("Warning", "ProgressStale")]
    assert not [one for one in events(world.status, world.status) if one.reason == "ProgressStale"]


# Time left.


def left(seconds_left: int | None, *, age: float, **values: Any) -> str:
    progress = ProgressStatus(percent=1, step=1, steps=100, seconds_left=seconds_left, updated=timestamp(NOW))
    return columns([teacher_of(MASKS, "Training", progress=progress, **values)], now=NOW + age).time_left


def test_the_time_left_counts_down_between_two_lines() -> None:
    assert [left(2400, age=age) for age in (0, 60, 1200, 2380)] == ["40m", "39m", "20m", "20s"]
    assert left(2400, age=-500) == "40m", "a clock that is ahead"


def test_the_time_left_of_a_trainer_that_is_late_or_silent_is_not_shown() -> None:
    assert left(41, age=42) == ""
    world = trains(step(NOW, seconds_left=9000.0))
    assert world.status.summary.time_left == "2h30m"
    world.advance(120)
    world.lose_node(world.pod(MASKS))
    world.reconcile()
    assert world.status.summary.time_left == ""


def test_the_remaining_time_is_updated_without_progress_lines() -> None:
    world = trains(step(NOW, seconds_left=9000.0))
    decision = world.reconcile()
    assert decision.actions.requeue_at is not None
    world.advance(decision.actions.requeue_at - world.now)
    world.reconcile()
    assert world.status.summary.time_left != "2h30m"


def test_lines_that_do_not_say_the_time_left_count_it_down() -> None:
    view = read_progress([step(NOW), line("checkpoint", NOW + 100, step=10, steps=100), line("note", NOW + 150)])
    assert view.progress is not None
    assert (view.progress.seconds_left, view.progress.updated) == (2250, timestamp(NOW + 150))


@pytest.mark.parametrize("at", [float("inf"), float("nan"), -1e300, 1e300])
def test_invalid_times_are_ignored(at: float) -> None:
    known = read_progress([step(NOW)])
    odd = '{"event": "note", "message": "x", "time": %s}'
    assert read_progress([odd % at, step(NOW)]) == known
    assert isinstance(read_progress([odd % at], known), ProgressView)


def test_a_run_that_is_suspended_has_nobody_to_hear_from() -> None:
    world = trains()
    world.lose_node(world.pod(MASKS))
    world.reconcile()
    assert responding(world) is not None
    kept = with_conditions(world.status, Summary.suspended("x"), generation=1, now=NOW)
    assert [one.type for one in kept.conditions if one.type == "Responding"] == []

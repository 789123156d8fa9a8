"""What the operator does and says, one story each."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from loops import nonempty
from tft_objects import (
    BOXES,
    GPU,
    MASKS,
    NAME,
    NOW,
    SETTINGS,
    UID,
    body_of,
    disrupted,
    failed_message,
    prepared_of,
    trained_of,
    unschedulable,
)
from tft_schema import status_errors
from tft_world import World, world_with_pod_of

from engine.results.events import Event
from engine.results.outcome import Outcome, TeacherOutcome
from engine.spec import TeacherName
from teacher_operator.api.names import PLATFORM_HASH, request_config_map
from teacher_operator.api.status import ATTEMPTS, AttemptStatus, FailureStatus, TeacherStatus
from teacher_operator.decide.actions import Lookup
from teacher_operator.decide.attempts import with_attempts
from teacher_operator.decide.job_state import JOB_NAME
from teacher_operator.decide.run import decide, read_status
from teacher_operator.decide.stage_context import Observed

INSPECT_JOB, BOXES_JOB, MASKS_JOB = f"{NAME}-inspect", f"{NAME}-grounding-dino", f"{NAME}-sam"


def condition(world: World, kind: str) -> tuple[str, str]:
    found = next(one for one in world.status.conditions if one.type == kind)
    return found.status.value, found.reason


def step(number: int, **values: Any) -> str:
    return Event(event="step", time=NOW, step=number, steps=100, epochs=4, **values).line()


def note(message: str) -> str:
    return Event(event="note", time=NOW, message=message).line()


def idle(world: World) -> None:
    """Nothing more is to be done, and nothing more to be said."""
    before = world.status
    decision = world.reconcile()
    assert decision.actions.empty
    assert world.status == before


# From the object to the adapters.


@pytest.mark.parametrize("teachers", [(BOXES,), (MASKS,), (BOXES, MASKS)])
def test_the_data_decides_which_teachers_are_trained(teachers: tuple[TeacherName, ...]) -> None:
    world = World(teachers=teachers)
    world.run_fairly()
    jobs = {BOXES: BOXES_JOB, MASKS: MASKS_JOB}
    assert world.made == [INSPECT_JOB, *(jobs[teacher] for teacher in teachers)]
    assert world.state == ("True", "Succeeded")
    assert [one.name for one in world.status.teachers] == list(teachers)
    assert all(one.adapter is not None and one.ap.after == "0.518" for one in world.status.teachers)
    assert world.status.summary.map == ", ".join(["0.31 -> 0.52"] * len(teachers))


def test_a_new_object_is_inspected_immediately() -> None:
    world = World()
    decision = world.reconcile()
    assert [child["kind"] for child in decision.actions.apply] == ["ConfigMap", "Job"]
    assert world.state == ("Unknown", "Inspecting")
    assert condition(world, "Reconciling") == ("True", "Inspecting")
    assert world.status.start_time == "2026-03-01T12:00:00Z"
    world.controllers()
    world.run(world.pod())
    world.reconcile()
    assert world.summary[2] == "the data is being inspected"
    idle(world)


def test_while_inspection_waits_it_is_reported_why() -> None:
    world = World()
    world.reconcile()
    world.controllers()
    world.waits(world.pod(), reason="ImagePullBackOff", message="401 Unauthorized")
    decision = world.reconcile()
    assert "image cannot be pulled: registry.test/operator:1" in world.summary[2]
    assert decision.actions.requeue_at is not None


def test_the_inspection_result_is_reported_with_the_run() -> None:
    world = World()
    world.inspected()
    status = world.status
    assert status.dataset is not None
    assert (status.dataset.images, status.dataset.class_count) == (1000, 2)
    assert (status.run_id, status.config_uri) == ("0123456789ab", f"{status.uri}/teacher_config.yaml")
    assert [one.memory and one.memory.least_bytes for one in status.teachers] == [2 * 10**9, None]
    assert condition(world, "DatasetInspected") == ("True", "Inspected")
    assert world.has_job(BOXES)


def test_sam_waits_for_the_boxes_that_it_is_prompted_by() -> None:
    world = World()
    world.training()
    assert (world.has_job(BOXES), world.has_job(MASKS)) == (True, False)
    assert (world.teacher(MASKS).state, world.teacher(MASKS).message) == (
        "Pending",
        "waits for Grounding DINO, whose boxes it is prompted by",
    )
    idle(world)
    world.succeed(world.pod(BOXES))
    world.controllers()
    world.reconcile()
    assert world.has_job(MASKS), "in the same look that sees the boxes published"
    world.run_fairly()
    assert world.state == ("True", "Succeeded")


def test_while_kueue_keeps_the_first_teacher_back_the_run_is_queued_and_not_pending_for_the_one_that_waits() -> None:
    world = World(queueName="team-a")
    world.inspected()
    world.reconcile()
    assert [one.state for one in world.status.teachers] == ["Queued", "Pending"]
    assert world.state == ("Unknown", "Queued")


def test_while_sam_waits_it_can_be_suspended_and_resumed() -> None:
    world = World()
    world.training()
    world.edit(suspend=True)
    world.reconcile()
    assert world.teacher(MASKS).state == "Suspended"
    world.edit(suspend=None)
    world.reconcile()
    assert (world.teacher(MASKS).state, world.has_job(MASKS)) == ("Pending", False)


def test_a_job_of_sam_that_an_older_operator_started_in_parallel_continues() -> None:
    alone, both = World(teachers=[MASKS]), World()
    alone.training()
    both.training()
    seen = both.observed({})
    view = alone.observed({}).jobs[MASKS.value]
    decision = decide(both.body, Observed({**seen.jobs, MASKS.value: view}), SETTINGS, now=both.now)
    assert {one.name: one.state for one in decision.status.teachers} == {BOXES: "Training", MASKS: "Training"}
    assert decision.actions.empty


def test_the_teachers_are_reported_while_they_train() -> None:
    world = World()
    world.training()
    assert world.state == ("Unknown", "Training")
    assert [one.state for one in world.status.teachers] == ["Training", "Pending"]
    world.logs[world.pod(BOXES)["metadata"]["name"]] = [
        "Loading",
        step(50, seconds_left=90, ap_before=0.2, best_ap=0.3),
    ]
    world.advance(30)
    world.reconcile()
    shown = world.status.summary
    assert (shown.teachers, shown.progress, shown.time_left) == ("GroundingDino,Sam", "25%", "")
    assert (shown.map, shown.nodes) == ("0.20 -> 0.30", "gpu-node-1")
    assert (world.teacher(BOXES).gpu_seconds, world.status.gpu_seconds) == (30, 30)
    assert world.teacher(BOXES).start_time == "2026-03-01T12:00:00Z"


def test_a_trainer_reports_its_activity_before_the_first_step() -> None:
    world = World(teachers=[MASKS])
    world.training()
    assert world.teacher().message == "fetching the data and the base model"
    log = world.logs[world.pod(MASKS)["metadata"]["name"]] = [note("fetching the data"), note("looking for boxes")]
    world.reconcile()
    assert world.teacher().message == "looking for boxes"
    assert world.status.summary.progress == ""
    log.append(step(1))
    world.reconcile()
    assert world.teacher().message.startswith("step 1")
    world.end(world.pod(MASKS), 1)
    world.controllers()
    world.run(world.pod(MASKS))
    world.logs[world.pod(MASKS)["metadata"]["name"]] = [note("looking for boxes")]
    world.reconcile()
    assert world.teacher().message.startswith("step 1, looking for boxes"), "an attempt that follows another"


def test_progress_that_is_no_longer_reported_is_kept() -> None:
    world = World(teachers=[MASKS])
    world.training()
    pod = world.pod(MASKS)
    world.logs[pod["metadata"]["name"]] = [step(50, best_ap=0.3)]
    world.reconcile()
    world.end(pod, 1)
    world.controllers()
    world.reconcile()
    progress = world.teacher().progress
    assert progress is not None
    assert (progress.step, world.teacher().ap.after) == (50, "0.300")


def test_a_run_that_was_published_before_needs_no_gpu() -> None:
    world = World(published=True)
    world.run_fairly()
    assert world.made == [INSPECT_JOB]
    assert world.state == ("True", "Succeeded")
    assert all("published by an earlier, identical run" in one.message for one in world.status.teachers)
    assert world.status.summary.progress == "100%"


def worse() -> TeacherOutcome:
    return trained_of(MASKS, before=0.3, after=0.2).model_copy(update={"improved": False})


def test_the_status_reports_that_no_adapter_is_better_than_the_base_yet() -> None:
    world = World(teachers=[MASKS])
    world.training()
    world.logs[world.pod(MASKS)["metadata"]["name"]] = [
        Event(event="evaluation", time=NOW, step=0, steps=100, phase="base", ap=0.3).line(),
        Event(event="evaluation", time=NOW, step=40, steps=100, phase="adapted", ap=0.2).line(),
        step(50, ap_before=0.3),
    ]
    world.reconcile()
    assert "no adapter is better than the base (AP 0.300) yet" in world.teacher().message
    assert (world.teacher().ap.before, world.teacher().ap.after) == ("0.300", "")
    assert world.status.summary.map == "0.30 -> …"


@pytest.mark.parametrize("on_no_gain", ["Publish", "Fail"])
def test_an_adapter_without_gain_sets_a_condition_and_ends_the_run_by_on_no_gain(on_no_gain: str) -> None:
    world = World(teachers=[MASKS], training={"onNoGain": on_no_gain})
    world.training()
    pod, said = world.pod(MASKS), "the adapter of Sam is not better than its base: AP 0.300 -> 0.200"
    fails = on_no_gain == "Fail"
    outcome = Outcome(trained=worse())
    if fails:
        outcome = Outcome(exit_code=48, reason="NotBetterThanBase", message=said, trained=worse())
    world.end(pod, 48 if fails else 0, message=outcome.to_message())
    world.controllers()
    world.reconcile()
    assert world.state == (("False", "NotBetterThanBase") if fails else ("True", "Succeeded"))
    assert condition(world, "Improved") == ("False", "NotBetterThanBase")
    teacher = world.teacher()
    assert (teacher.ap.before, teacher.ap.after, teacher.improved) == ("0.300", "0.200", False)
    assert teacher.adapter is not None
    assert len(world.pods_of(world.job(MASKS))) == 1, "it is not tried again"
    idle(world)


def test_a_published_run_without_gain_ends_by_on_no_gain_of_the_new_object() -> None:
    for on_no_gain, state in (("Publish", ("True", "Succeeded")), ("Fail", ("False", "NotBetterThanBase"))):
        world = World(teachers=[MASKS], training={"onNoGain": on_no_gain})
        world.reconcile()
        world.controllers()
        prepared = prepared_of(MASKS).model_copy(update={"published": (worse(),)})
        world.run(world.pod())
        world.end(world.pod(), 0, message=Outcome(prepared=prepared).to_message())
        world.controllers()
        world.run_fairly()
        assert world.made == [INSPECT_JOB]
        assert world.state == state
        assert condition(world, "Improved") == ("False", "NotBetterThanBase")


def test_a_run_of_several_nodes_has_a_service_before_its_job() -> None:
    world = World(teachers=[MASKS], nodes=2, gpus=4)
    world.reconcile()
    world.controllers()
    world.succeed(world.pod())
    world.controllers()
    decision = world.reconcile()
    assert [child["kind"] for child in decision.actions.apply] == ["Service", "Job"]
    world.controllers()
    assert len(world.pods_of(world.job(MASKS))) == 2


# The data is wrong.


def test_data_that_is_wrong_ends_the_run_before_a_gpu_is_taken() -> None:
    world = World()
    world.reconcile()
    world.controllers()
    pod = world.pod()
    world.run(pod)
    world.end(
        pod, 41, message=failed_message(41, "DataInvalid", "The file lists no images: export it with its images.")
    )
    world.controllers()
    world.reconcile()
    assert world.made == [INSPECT_JOB]
    assert world.summary == ("False", "DataInvalid", "The file lists no images: export it with its images.")
    assert condition(world, "Stalled") == ("True", "DataInvalid")
    assert condition(world, "DatasetInspected") == ("False", "DataInvalid")
    idle(world)


def test_inspection_that_crashes_is_reported_with_its_log() -> None:
    world = World()
    world.reconcile()
    for _ in range(3):
        world.controllers()
        world.run(world.pod())
        world.logs[world.pod()["metadata"]["name"]] = ["Traceback (most recent call last):", "OSError: x"]
        world.end(world.pod(), 1)
    world.controllers()
    world.reconcile()
    assert world.state == ("False", "Crashed")
    assert world.summary[2].endswith(
        "(attempt 3, the last)\nLast lines of its log:\nTraceback (most recent call last):\nOSError: x"
    )


def test_a_lost_inspection_result_is_inspected_again() -> None:
    world = World()
    world.reconcile()
    world.controllers()
    world.run(world.pod())
    pod = world.pod()
    world.succeed(pod)
    world.controllers()
    world.remove_pod(pod)
    world.reconcile()
    assert "lost with its pod" in world.summary[2]
    world.run_fairly()
    assert world.made.count(INSPECT_JOB) == 2
    assert world.state == ("True", "Succeeded")


# Suspended.


def test_an_object_created_suspended_waits_until_it_is_resumed() -> None:
    world = World(suspend=True)
    world.reconcile()
    assert world.made == []
    assert world.state == ("Unknown", "Suspended")
    assert condition(world, "Reconciling") == ("False", "Suspended")
    idle(world)
    world.edit(suspend=False)
    world.reconcile()
    assert world.made == [INSPECT_JOB]


def test_inspection_can_be_suspended_and_resumed() -> None:
    world = World()
    world.reconcile()
    world.controllers()
    world.run(world.pod())
    world.reconcile()
    world.edit(suspend=True)
    world.reconcile()
    assert world.job()["spec"]["suspend"] is True
    assert world.state == ("Unknown", "Suspended")
    world.controllers()
    world.reap()
    world.reconcile()
    assert list(world.live_pods()) == []
    assert world.state == ("Unknown", "Suspended")
    idle(world)
    world.edit(suspend=False)
    world.reconcile()
    assert world.job()["spec"]["suspend"] is False
    assert world.state == ("Unknown", "Inspecting")
    assert "spec.suspend" not in world.summary[2]
    world.run_fairly()
    assert world.made.count(INSPECT_JOB) == 1


def test_training_can_be_suspended_and_resumed_in_the_same_job() -> None:
    world = World()
    world.training()
    world.edit(suspend=True)
    world.reconcile()
    assert world.state == ("Unknown", "Suspended")
    assert "checkpoint" in world.summary[2]
    world.controllers()
    world.reap()
    world.reconcile()
    assert list(world.live_pods()) == []
    assert {one.state for one in world.status.teachers} == {"Suspended"}
    idle(world)
    world.edit(suspend=False)
    world.reconcile()
    assert {one.state for one in world.status.teachers} == {"Pending"}
    assert "spec.suspend" not in world.summary[2]
    assert condition(world, "Reconciling")[0] == "True"
    world.run_fairly()
    assert world.made == [INSPECT_JOB, BOXES_JOB, MASKS_JOB]
    assert world.state == ("True", "Succeeded")


def test_a_queued_job_is_suspended_by_deleting_it() -> None:
    world = World(teachers=[MASKS], queueName="team-a")
    world.inspected()
    assert world.job(MASKS)["spec"]["suspend"] is True
    world.controllers()
    world.reconcile()
    assert world.state == ("Unknown", "Queued")
    assert "queued by Kueue in team-a" in world.summary[2]
    world.kueue(admit=True)
    world.controllers()
    world.run(world.pod(MASKS))
    world.reconcile()
    assert world.state == ("Unknown", "Training")
    world.edit(suspend=True)
    states = []
    for _ in range(4):
        for _ in range(2):
            world.reconcile()
            states.append(world.state)
        world.controllers()
        world.reap()
        world.controllers()
    assert not world.has_job(MASKS)
    assert set(states) == {("Unknown", "Suspended")}
    idle(world)
    world.edit(suspend=False)
    world.reconcile()
    assert world.made == [INSPECT_JOB, MASKS_JOB, MASKS_JOB]
    assert world.job(MASKS)["spec"]["suspend"] is True
    world.run_fairly()
    assert world.state == ("True", "Succeeded")


def test_a_job_suspended_by_somebody_else_is_not_resumed() -> None:
    world = World(teachers=[MASKS], pendingDeadlineSeconds=60)
    world.training()
    world.suspend_by_others(suspend=True)
    world.reconcile()
    world.controllers()
    world.reap()
    world.advance(9000)
    for _ in range(2):
        world.reconcile()
        assert world.job(MASKS)["spec"]["suspend"] is True
        assert world.state == ("Unknown", "Queued")
    assert "not by this operator" in world.summary[2]
    world.suspend_by_others(suspend=False)
    world.run_fairly()
    assert world.state == ("True", "Succeeded")
    assert world.made.count(MASKS_JOB) == 1


def test_kueue_may_take_the_place_away() -> None:
    world = World(teachers=[MASKS], queueName="team-a", pendingDeadlineSeconds=60)
    world.training()
    world.kueue(admit=False)
    world.controllers()
    world.reap()
    world.advance(9000)
    world.controllers()
    world.reconcile()
    assert world.state == ("Unknown", "Queued")
    idle(world)
    world.run_fairly()
    assert world.made.count(MASKS_JOB) == 1


# Things that happen.


def test_a_job_deleted_by_hand_is_replaced() -> None:
    world = World(teachers=[MASKS])
    world.training()
    world.delete_job(MASKS_JOB)
    world.reconcile()
    assert world.made.count(MASKS_JOB) == 1, "its name is not free before its pod has ended"
    world.controllers()
    world.reap()
    world.controllers()
    world.reconcile()
    assert world.made.count(MASKS_JOB) == 2
    (attempt,) = world.teacher().attempts
    assert attempt.end_time is not None
    world.run_fairly()
    assert world.teacher().attempt_count == 2


@pytest.mark.parametrize("pods", ["stopped", "orphaned"])
def test_no_job_is_made_while_a_pod_of_a_deleted_one_still_runs(pods: str) -> None:
    """`kubectl delete job` removes the Job first, and its pods have their grace period; with --cascade=orphan, more."""
    world = World(teachers=[MASKS])
    world.training()
    pod = world.pod(MASKS)
    world.remove_job(MASKS_JOB, orphan=pods == "orphaned")
    for _ in range(3):
        world.reconcile()
        world.advance(30)
    assert not world.has_job(MASKS)
    assert world.state == ("Unknown", "Pending")
    assert f"pod {pod['metadata']['name']} on node gpu-node-1" in world.summary[2]
    assert "a new Job is made when it has" in world.summary[2]
    if pods == "orphaned":
        world.delete_pod(pod)
    world.reap()
    world.reconcile()
    assert world.has_job(MASKS)
    world.run_fairly()
    assert world.state == ("True", "Succeeded")


def test_pods_of_others_do_not_block_a_run() -> None:
    world = World(teachers=[MASKS])
    world.training()
    other = copy.deepcopy(world.pod(MASKS))
    world.remove_job(MASKS_JOB)
    other["metadata"] |= {"name": "theirs", "uid": "theirs", "ownerReferences": []}
    other["metadata"]["labels"].pop(JOB_NAME)
    world.add_pod(other)
    world.reap()
    world.reconcile()
    assert world.has_job(MASKS)


def test_a_job_is_made_only_after_the_status_that_names_it_was_written() -> None:
    world = World(teachers=[MASKS])
    world.reconcile()
    world.controllers()
    world.succeed(world.pod())
    world.controllers()
    announced = world.reconcile_once()
    assert (announced.actions.apply, world.has_job(MASKS)) == ([], False)
    assert (world.teacher().job, world.teacher().state) == (MASKS_JOB, "Pending")
    assert world.status.run_id
    world.reconcile_once()  # as an operator that starts anew there
    assert world.has_job(MASKS)
    written = world.status
    world.reconcile()
    assert world.status == written, "one write for both"


@pytest.mark.parametrize("part", ["runId", "teachers"])
def test_a_job_is_not_made_from_a_status_that_is_not_written(part: str) -> None:
    """What a status once named does not count while the rest of it is only just read again."""
    world = World(teachers=[MASKS])
    world.training()
    world.remove_job(MASKS_JOB)
    world.reap()
    world.break_status(part)
    assert world.reconcile_once().actions.requeue_after_write
    assert not world.has_job(MASKS)
    world.reconcile_once()
    assert world.has_job(MASKS)


def test_a_crash_before_the_status_is_written_creates_nothing_twice() -> None:
    world = World(teachers=[MASKS])
    world.inspected()
    assert world.has_job(MASKS)
    world.break_status()  # as it would be without any write
    world.reconcile()
    world.run_fairly()
    assert world.made.count(MASKS_JOB) == 1


@pytest.mark.parametrize("teacher", [None, MASKS], ids=["inspection", "trainer"])
def test_a_container_that_ends_without_an_outcome_as_it_starts_is_tried_again(teacher: TeacherName | None) -> None:
    """Stopped while it starts, a container may end with the runtime's own exit code 2."""
    world = world_with_pod_of(teacher)
    world.end(world.pod(teacher), 2)
    world.controllers()
    world.reconcile()
    assert not world.terminal
    world.run_fairly()
    assert world.state == ("True", "Succeeded")


@pytest.mark.parametrize("teacher", [None, MASKS], ids=["inspection", "trainer"])
def test_a_configuration_that_is_wrong_ends_the_run_at_its_first_attempt(teacher: TeacherName | None) -> None:
    world = World(teachers=[MASKS])
    world.reconcile()
    world.controllers()
    if teacher is not None:
        world.inspected()
        world.controllers()
    world.run(world.pod(teacher))
    world.end(
        world.pod(teacher), 40, message=failed_message(40, "ConfigurationInvalid", "epochs is 0: give at least 1")
    )
    world.reconcile()
    assert world.job(teacher)["spec"]["backoffLimit"] == 0
    world.controllers()
    world.reconcile()
    assert world.has_job(teacher), "its pod's log can be read"
    assert world.summary == (
        "False",
        "ConfigurationInvalid",
        ("Sam: " if teacher else "") + "epochs is 0: give at least 1",
    )
    world.controllers()
    world.reap()
    world.controllers()
    assert list(world.live_pods()) == []
    idle(world)


@pytest.mark.parametrize("spec", [{}, {"queueName": "team-a"}], ids=["plain", "queued"])
def test_a_suspended_run_reports_when_no_pod_is_left(spec: dict[str, Any]) -> None:
    world = World(teachers=[MASKS], **spec)
    world.training()
    world.edit(suspend=True)
    world.reconcile()
    assert "stops at a checkpoint" in world.summary[2]
    world.controllers()
    world.reap()
    world.controllers()
    world.reconcile()
    assert world.state == ("Unknown", "Suspended")
    assert "no pod is left" in world.summary[2]


def test_a_pod_deleted_by_hand_is_replaced_and_not_counted_as_a_failure() -> None:
    world = World(teachers=[MASKS], backoffLimit=0)
    world.training()
    world.delete_pod(world.pod(MASKS))
    world.reconcile()
    assert "is being stopped" in world.summary[2]
    world.reap()
    world.run_fairly()
    assert world.state == ("True", "Succeeded")
    assert world.made.count(MASKS_JOB) == 1


def test_a_failed_attempt_is_reported_while_the_next_one_trains() -> None:
    world = World(teachers=[MASKS])
    world.training()
    world.logs[world.pod(MASKS)["metadata"]["name"]] = [step(3), "CUDA error: device-side assert"]
    world.end(world.pod(MASKS), 1)
    world.controllers()
    world.reconcile()
    failure = world.teacher().failure
    assert failure is not None
    assert (failure.reason, failure.exit_code, failure.node) == ("Crashed", 1, "gpu-node-1")
    assert failure.log_tail[-1] == "CUDA error: device-side assert"
    assert world.state == ("Unknown", "Starting")
    world.run(world.pod(MASKS))
    world.reconcile()
    assert world.state == ("Unknown", "Training")
    assert "attempt 2, after Crashed" in world.summary[2]
    world.run_fairly()
    assert world.teacher().failure is None
    assert [one.exit_code for one in world.teacher().attempts] == [1, 0]


def test_a_teacher_that_failed_too_often_fails_the_run() -> None:
    world = World(teachers=[MASKS], backoffLimit=1)
    world.training()
    for _ in range(2):
        world.end(
            world.pod(MASKS), 44, message=failed_message(44, "OutOfGpuMemory", "The GPU is full: lower batchSize.")
        )
        world.controllers()
        world.reconcile()
        if not world.terminal:
            world.run(world.pod(MASKS))
    assert world.state == ("False", "OutOfGpuMemory")
    assert "lower batchSize" in world.summary[2]
    failure = world.teacher().failure
    assert failure is not None
    assert failure.message.endswith("(attempt 2, the last)")
    idle(world)


@pytest.mark.parametrize(
    ("exit_code", "reason"), [(40, "ConfigurationInvalid"), (41, "DataInvalid"), (45, "LossNotFinite")]
)
def test_a_permanent_failure_is_not_retried(exit_code: int, reason: str) -> None:
    world = World(teachers=[MASKS])
    world.training()
    world.end(world.pod(MASKS), exit_code, message=failed_message(exit_code, "X", "So it is."))
    world.reconcile()
    world.controllers()
    world.reconcile()
    assert world.summary == ("False", reason, "Sam: So it is.")
    assert world.teacher().attempt_count == 1


def test_preemptions_are_no_failures() -> None:
    world = World(teachers=[MASKS], backoffLimit=0)
    world.training()
    for number in range(1, 4):
        world.end(world.pod(MASKS), 137, conditions=disrupted("PreemptionByScheduler", "preempted for another"))
        world.controllers()
        world.reconcile()
        world.run(world.pod(MASKS), node=f"spot-{number}")
        world.advance(100)
        world.reconcile()
    assert "Disrupted" not in world.teacher().message
    assert world.status.summary.nodes == "spot-3"
    world.run_fairly()
    assert world.state == ("True", "Succeeded")
    assert world.teacher().attempt_count == 4


def test_a_trainer_result_lost_with_its_pod_is_produced_again() -> None:
    world = World(teachers=[MASKS])
    world.training()
    pod = world.pod(MASKS)
    world.succeed(pod)
    world.controllers()
    world.remove_pod(pod)
    world.reconcile()
    assert "was lost with its pod" in world.summary[2]
    world.run_fairly()
    assert world.made.count(MASKS_JOB) == 2
    assert world.state == ("True", "Succeeded")


def test_a_lost_node_is_reported_and_does_not_start_a_second_trainer() -> None:
    world = World(teachers=[MASKS])
    world.training()
    pod = world.pod(MASKS)
    world.delete_pod(pod)
    world.lost.add(pod["metadata"]["name"])
    world.advance(1000)
    world.controllers()
    world.reap()
    world.reconcile()
    assert "kubectl delete node gpu-node-1" in world.summary[2]
    assert len(list(world.live_pods())) == 1
    world.remove_node(pod)
    world.reap()
    world.run_fairly()
    assert world.state == ("True", "Succeeded")


def test_a_refused_pod_is_distinguished_by_the_events_of_its_job() -> None:
    world = World(teachers=[MASKS])
    world.inspected()
    said = 'FailedCreate: Error creating: pods "x" is forbidden: exceeded quota: gpus'
    world.events["Job", MASKS_JOB] = [said]
    world.advance(30)
    world.reconcile()
    assert said in world.summary[2]


def test_a_run_that_its_own_disk_evicts_ends() -> None:
    """An eviction is no failure of the Job, so that it would go on for ever."""
    world = World(teachers=[MASKS], backoffLimit=0)
    world.training()
    said = "The node was low on resource: ephemeral-storage."
    for _ in range(10):
        pod = world.pod(MASKS)
        world.run(pod)
        pod["status"] |= {"reason": "Evicted", "message": said}
        world.end(pod, 137, conditions=disrupted("TerminationByKubelet", said))
        world.controllers()
        world.advance(60)
        world.reconcile()
        if world.terminal:
            break
    assert world.state == ("False", "Evicted")
    assert said in world.summary[2]
    assert world.teacher().attempt_count > 2
    world.controllers()
    world.reap()
    assert list(world.live_pods()) == []


def test_the_pods_of_a_job_that_has_ended_are_requested_before_they_are_taken_for_lost() -> None:
    world = World(teachers=[MASKS])
    world.training()
    pod = world.pod(MASKS)
    world.succeed(pod)
    world.controllers()
    world.remove_pod(pod)
    assert Lookup("pods", MASKS_JOB) in world.decide().actions.lookups


def test_an_unreadable_outcome_is_not_retried_without_end() -> None:
    world = World(teachers=[MASKS])
    world.training()
    world.end(world.pod(MASKS), 0, message='{"format": 2}')
    world.controllers()
    world.reconcile()
    assert world.state == ("False", "OutcomeUnreadable")
    assert "another version" in world.summary[2]


def test_an_outcome_that_was_too_large_reports_its_error() -> None:
    world = World(teachers=[MASKS])
    world.training()
    world.end(
        world.pod(MASKS), 0, message=failed_message(40, "ConfigurationInvalid", "What came of this does not fit.")
    )
    world.controllers()
    world.reconcile()
    assert world.summary == ("False", "ConfigurationInvalid", "Sam: What came of this does not fit.")


def test_root_cause_with_several_nodes_is_the_node_that_failed() -> None:
    world = World(teachers=[MASKS], nodes=2, gpus=1)
    world.training()
    first, second = world.pods_of(world.job(MASKS))
    world.end(first, 45, message=failed_message(45, "LossNotFinite", "The loss is NaN."))
    world.end(second, 143, message=failed_message(143, "Interrupted", "SIGTERM arrived"))
    world.controllers()
    world.reconcile()
    assert world.summary == ("False", "LossNotFinite", "Sam: The loss is NaN.")


@pytest.mark.parametrize("killed", [0, 1])
def test_root_cause_with_several_nodes_is_the_killed_node_and_not_its_peer(killed: int) -> None:
    world = World(teachers=[MASKS], nodes=2, gpus=1, backoffLimit=0)
    world.training()
    pods = world.pods_of(world.job(MASKS))
    world.end(pods[killed], 137, reason="OOMKilled")
    world.advance(20)
    world.end(pods[1 - killed], 1, message=failed_message(1, "Unexpected", "another process of the run was lost"))
    world.controllers()
    world.reconcile()
    assert world.state == ("False", "OutOfMemory")


@pytest.mark.parametrize(
    ("before", "after"), [({"nodes": 2, "gpus": 4}, {"nodes": 3, "gpus": 2}), ({"gpus": 8}, {"nodes": 2, "gpus": 4})]
)
def test_with_another_number_of_nodes_and_gpus_it_resumes_from_its_checkpoint(
    before: dict[str, int], after: dict[str, int]
) -> None:
    """The same configuration in the same place: what the engine goes on from does not depend on how many it is."""
    world = World(teachers=[MASKS], **before)
    world.training()
    config = trained_config(world.job(MASKS))
    world.edit(**after)
    world.reconcile()
    world.reconcile()
    world.controllers()
    world.reap()
    world.controllers()
    decision = world.reconcile()
    assert [child["kind"] for child in decision.actions.apply] == ["Service", "Job"]
    job = world.job(MASKS)
    nodes, gpus = after["nodes"], after["gpus"]
    assert (job["spec"]["completionMode"], job["spec"]["completions"], job["spec"]["parallelism"]) == (
        *("Indexed", nodes),
        nodes,
    )
    (container,) = job["spec"]["template"]["spec"]["containers"]
    launch = ["teacher", "launch", "--processes", str(gpus), "--nodes", str(nodes)]
    assert container["command"][:6] == launch
    assert trained_config(job) == config
    world.controllers()
    assert len(world.pods_of(job)) == nodes
    world.run_fairly()
    assert world.state == ("True", "Succeeded")


def trained_config(job: dict[str, Any]) -> str:
    """Of which configuration a Job trains a teacher."""
    (container,) = job["spec"]["template"]["spec"]["containers"]
    words: list[str] = container["command"]
    return words[words.index("--config") + 1]


def test_of_several_nodes_those_that_are_done_first_do_not_make_the_others_wait() -> None:
    world = World(teachers=[MASKS], nodes=2, gpus=1, pendingDeadlineSeconds=60)
    world.training()
    first, second = world.pods_of(world.job(MASKS))
    world.succeed(first)
    world.controllers()
    world.reconcile()
    assert world.state == ("Unknown", "Training")
    world.advance(100)
    world.reconcile()
    assert world.state == ("Unknown", "Training")
    world.end(second, 0, message=Outcome().to_message())
    world.controllers()
    world.reconcile()
    assert world.state == ("True", "Succeeded")


def test_one_teacher_that_fails_does_not_stop_the_other() -> None:
    world = World()
    world.training()
    world.end(world.pod(BOXES), 45, message=failed_message(45, "LossNotFinite", "The loss is NaN."))
    world.controllers()
    world.reconcile()
    assert (world.teacher(BOXES).state, world.teacher(MASKS).state) == ("Failed", "Pending")
    world.controllers()
    world.run(world.pod(MASKS))
    world.reconcile()
    assert (world.teacher(BOXES).state, world.teacher(MASKS).state) == ("Failed", "Training")
    assert world.state == ("Unknown", "Training")
    assert "GroundingDino: The loss is NaN." in world.summary[2]
    assert condition(world, "Stalled")[0] == "False"
    world.succeed(world.pod(MASKS))
    world.controllers()
    world.reconcile()
    assert world.state == ("False", "LossNotFinite")
    assert world.teacher(MASKS).adapter is not None
    idle(world)


# Deadlines.


def test_no_gpu_in_time_ends_the_run_and_frees_the_queue() -> None:
    world = World(teachers=[MASKS], pendingDeadlineSeconds=600)
    world.inspected()
    world.controllers()
    world.waits(world.pod(MASKS), conditions=unschedulable(f"0/3 nodes are available: 3 Insufficient {GPU}."))
    decision = world.reconcile()
    assert decision.actions.requeue_at is not None
    assert decision.actions.requeue_at <= NOW + 600
    assert world.state == ("Unknown", "Pending")
    assert f"no node has a free {GPU}" in world.summary[2]
    world.advance(601)
    world.reconcile()
    assert world.state == ("False", "NotStartedInTime")
    assert "pendingDeadlineSeconds = 600" in world.summary[2]
    assert world.job(MASKS)["metadata"]["deletionTimestamp"]
    world.controllers()
    world.reap()
    world.controllers()
    idle(world)
    assert not world.has_job(MASKS)


def test_the_wait_for_a_gpu_restarts_after_a_trainer_has_run() -> None:
    """A trainer that was preempted after a day has not waited for a day."""
    world = World(teachers=[MASKS], pendingDeadlineSeconds=600)
    world.training()
    world.advance(86_400)
    world.end(world.pod(MASKS), 137, conditions=disrupted("PreemptionByScheduler", "preempted"))
    world.controllers()
    world.waits(world.pod(MASKS), conditions=unschedulable(f"3 Insufficient {GPU}", since=world.now))
    world.reconcile()
    assert world.state == ("Unknown", "Pending")
    world.advance(590)
    world.reconcile()
    assert world.state == ("Unknown", "Pending")
    world.advance(20)
    world.reconcile()
    assert world.state == ("False", "NotStartedInTime")


def test_the_wait_for_a_gpu_restarts_after_a_suspension() -> None:
    world = World(teachers=[MASKS], pendingDeadlineSeconds=600)
    world.training()
    world.edit(suspend=True)
    world.reconcile()
    world.controllers()
    world.reap()
    world.advance(86_400)
    world.reconcile()
    world.edit(suspend=False)
    world.reconcile()
    world.controllers()
    world.reconcile()
    assert world.state == ("Unknown", "Starting")


def test_a_job_that_is_refused_for_too_long_does_not_hold_up_the_other_teacher_for_ever() -> None:
    world = World(pendingDeadlineSeconds=600)
    world.refusals[BOXES_JOB] = NAME_TAKEN
    world.advance(86_400)  # what went before is no wait
    world.inspected()
    world.advance(590)
    decision = world.reconcile()
    assert world.teacher(BOXES).state == "Pending"
    assert (decision.actions.retry, decision.actions.requeue_at) == (True, world.now + 10)
    world.advance(10)
    world.reconcile()
    failure = world.teacher(BOXES).failure
    assert failure is not None
    assert failure.reason == "NotStartedInTime"
    assert failure.message == f"not running after pendingDeadlineSeconds = 600: {NAME_TAKEN.message}"
    assert world.has_job(MASKS)


def test_refusals_that_lie_apart_are_not_one_wait() -> None:
    world = World(teachers=[MASKS], pendingDeadlineSeconds=600)
    world.refusals[MASKS_JOB] = NAME_TAKEN
    world.inspected()
    assert world.teacher().refused_since
    world.edit(suspend=True)
    world.reconcile()
    assert world.teacher().refused_since is None
    world.advance(86_400)
    world.edit(suspend=None)
    world.reconcile()
    assert world.state == ("Unknown", "NameTaken")
    world.refusals.clear()
    world.reconcile()
    assert (world.has_job(MASKS), world.teacher().refused_since) == (True, None)


def test_without_a_deadline_a_job_that_is_refused_is_waited_for() -> None:
    world = World(teachers=[MASKS])
    world.refusals[MASKS_JOB] = NAME_TAKEN
    world.inspected()
    world.advance(864_000)
    assert world.reconcile().actions.retry
    assert world.state == ("Unknown", "NameTaken")


def test_a_job_that_runs_too_long_fails() -> None:
    world = World(teachers=[MASKS], activeDeadlineSeconds=3600)
    world.training()
    world.advance(3601)
    world.controllers()
    world.reap()
    world.reconcile()
    assert world.state == ("False", "DeadlineExceeded")
    assert "activeDeadlineSeconds = 3600" in world.summary[2]


def test_the_jobs_of_an_ended_run_are_removed_when_their_time_is_up() -> None:
    world = World(teachers=[MASKS], ttlSecondsAfterFinished=1000)
    world.training()
    world.succeed(world.pod(MASKS))
    world.controllers()
    ends = world.reconcile()
    assert world.terminal
    assert ends.actions.delete == []
    assert ends.actions.requeue_at == world.now + 1000, "nothing else may happen that makes the operator look again"
    decision = world.reconcile()
    assert decision.actions.empty
    assert decision.actions.requeue_at is not None
    world.advance(1001)
    world.reconcile()
    for _ in range(2):
        world.controllers()
        world.reap()
        world.controllers()
    assert world.jobs == {}
    idle(world)
    assert len(world.made) == 2
    assert world.decide().actions.requeue_at is None


def test_without_a_time_to_live_jobs_stay() -> None:
    world = World()
    world.run_fairly()
    world.advance(10**8)
    idle(world)


# What is refused.


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254",
        "http://[fe80::1]:9000",
        "http://2852039166/",
        "http://metadata.google.internal",
        "https://user:secret@minio.storage",
    ],
)
def test_an_endpoint_that_is_no_object_store_is_refused_before_anything_is_made(url: str) -> None:
    body = body_of(storage={"endpointUrl": url})
    decision = decide(body, Observed(), SETTINGS, now=NOW)
    assert decision.actions.empty
    assert status_errors(decision.status) == []
    assert {one.reason for one in decision.status.conditions} == {"EndpointRefused"}
    assert "secret" not in decision.status.model_dump_json()


ALLOWED = SETTINGS.model_copy(update={"allowed_endpoints": ("minio.storage", "*.example.com", "10.0.0.7", "::1")})


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://minio.storage", True),
        ("https://MINIO.storage:9000/path", True),
        ("http://10.0.0.7:9000", True),
        ("http://[::1]:9000", True),
        ("https://s3.example.com", True),
        ("https://a.b.example.com/", True),
        ("https://example.com", False),
        ("https://evilexample.com", False),
        ("https://minio.storage.evil.com", False),
        ("https://evil.com/.example.com", False),
        ("https://evil.com?.example.com", False),
        ("https://evil.com#.example.com", False),
        ("https://evil.com:443?x=:1.example.com", False),
        ("https://evil.com?@s3.example.com", False),
        ("https://minio.storage@evil.com", False),
    ],
)
def test_only_stores_that_the_installation_allows_are_used(url: str, allowed: bool) -> None:
    decision = decide(body_of(storage={"endpointUrl": url}), Observed(), ALLOWED, now=NOW)
    assert bool(decision.actions.apply) == allowed
    assert (decision.status.conditions[-1].reason == "EndpointRefused") != allowed


def test_a_spec_without_endpoint_is_always_allowed() -> None:
    assert decide(body_of(), Observed(), ALLOWED, now=NOW).actions.apply


def test_a_store_that_is_no_longer_allowed_stops_running_jobs() -> None:
    world = World(storage={"endpointUrl": "https://minio.storage"})
    world.training()
    world.settings = ALLOWED.model_copy(update={"allowed_endpoints": ("other.store",)})
    world.reconcile()
    assert world.state == ("False", "EndpointRefused")
    assert {one.state for one in world.status.teachers} == {"Failed"}
    assert world.status.summary.nodes == ""
    world.controllers()
    world.reap()
    assert list(world.live_pods()) == []
    idle(world)


NAME_TAKEN = FailureStatus(
    reason="NameTaken", message="Job x of another owner exists already: waits until it is deleted"
)
REFUSED = FailureStatus(reason="ChildRefused", message="Job x is refused: spec.template: Invalid value")
TRANSIENT = [
    NAME_TAKEN,
    FailureStatus(reason="Forbidden", message="Job x may not be created: exceeded quota"),
    FailureStatus(reason="ApiError", message="Job x cannot be created now: the API server cannot be reached"),
]
CHILDREN = [INSPECT_JOB, request_config_map(NAME, UID), MASKS_JOB]


@pytest.mark.parametrize("child", CHILDREN)
@pytest.mark.parametrize("failure", TRANSIENT, ids=lambda failure: failure.reason)
def test_a_child_that_is_refused_for_now_is_tried_again(child: str, failure: FailureStatus) -> None:
    world = World(teachers=[MASKS])
    if child == MASKS_JOB:
        world.reconcile()
        world.controllers()
        world.succeed(world.pod())
        world.controllers()
    world.refusals[child] = failure
    decision = world.reconcile()
    assert decision.actions.retry
    assert world.summary[0] == "Unknown"
    assert failure.message in world.summary[2]
    assert condition(world, "Reconciling")[0] == "True"
    world.run_fairly()
    assert world.state == ("True", "Succeeded")


@pytest.mark.parametrize("child", CHILDREN)
def test_a_child_that_is_refused_for_good_ends_the_run(child: str) -> None:
    world = World(teachers=[MASKS])
    if child == MASKS_JOB:
        world.reconcile()
        world.controllers()
        world.succeed(world.pod())
        world.controllers()
    world.refusals[child] = REFUSED
    decision = world.reconcile()
    assert not decision.actions.retry
    assert world.state == ("False", "ChildRefused")
    assert REFUSED.message in world.summary[2]
    idle(world)


def test_the_service_of_a_teacher_may_be_refused_too() -> None:
    world = World(teachers=[MASKS], nodes=2)
    world.reconcile()
    world.controllers()
    world.succeed(world.pod())
    world.controllers()
    world.refusals[MASKS_JOB] = TRANSIENT[1]
    assert world.reconcile().actions.retry
    world.run_fairly()
    assert world.state == ("True", "Succeeded")


def test_a_job_that_is_refused_for_good_does_not_hold_up_the_other_teacher() -> None:
    world = World()
    world.refusals[BOXES_JOB] = NAME_TAKEN
    world.inspected()
    assert (world.has_job(BOXES), world.has_job(MASKS)) == (False, False)
    world.refusals[BOXES_JOB] = REFUSED
    world.reconcile()
    assert world.has_job(MASKS)
    assert (world.teacher(BOXES).state, world.teacher(MASKS).state) == ("Failed", "Pending")
    assert not world.terminal


# Edits.


def test_an_edit_of_the_platform_makes_a_new_job_that_resumes() -> None:
    world = World(teachers=[MASKS])
    world.training()
    before = world.job(MASKS)["metadata"]["annotations"][PLATFORM_HASH]
    world.edit(nodeSelector={"gpu": "h100"})
    world.reconcile()
    assert world.job(MASKS)["metadata"]["deletionTimestamp"]
    assert world.state == ("Unknown", "Pending")
    assert "resumes" in world.summary[2]
    world.reconcile()
    idle(world)
    world.controllers()
    world.reap()
    world.controllers()
    world.reconcile()
    job = world.job(MASKS)
    assert job["metadata"]["annotations"][PLATFORM_HASH] != before
    assert job["spec"]["template"]["spec"]["nodeSelector"] == {"gpu": "h100"}
    world.run_fairly()
    assert world.made == [INSPECT_JOB, MASKS_JOB, MASKS_JOB]


def test_an_edit_refused_by_the_api_server_keeps_the_running_job() -> None:
    world = World(teachers=[MASKS])
    world.training()
    world.refusals[MASKS_JOB] = REFUSED
    world.edit(nodeSelector={"gpu": "h100"})
    world.reconcile()
    assert "deletionTimestamp" not in world.job(MASKS)["metadata"]
    assert world.state == ("Unknown", "Training")
    assert f"continues with the old ones: {REFUSED.message}" in world.summary[2]
    world.edit(nodeSelector=None)
    world.reconcile()
    assert REFUSED.message not in world.summary[2]
    world.run_fairly()
    assert world.made == [INSPECT_JOB, MASKS_JOB]


def test_an_edit_during_inspection_restarts_inspection() -> None:
    world = World()
    world.reconcile()
    world.controllers()
    world.waits(world.pod(), reason="CreateContainerConfigError", message='secret "s3" not found')
    world.reconcile()
    world.edit(storage={"credentialsSecretRef": {"name": "other"}})
    world.run_fairly()
    assert world.made.count(INSPECT_JOB) == 2
    assert world.state == ("True", "Succeeded")


@pytest.mark.parametrize(
    ("setting", "value"), [("backoffLimit", 9), ("activeDeadlineSeconds", 7200), ("pendingDeadlineSeconds", 60)]
)
def test_an_edit_that_a_job_can_take_on_changes_it_where_it_is(setting: str, value: int) -> None:
    world = World(teachers=[MASKS])
    world.training()
    world.edit(**{setting: value})
    world.reconcile()
    assert world.job(MASKS)["spec"].get(setting) == (None if setting.startswith("pending") else value)
    assert world.state == ("Unknown", "Training")
    assert world.status.observed_generation == 2
    idle(world)
    world.edit(**{setting: None})
    world.reconcile()
    assert setting not in world.job(MASKS)["spec"] or setting == "backoffLimit"
    assert world.made.count(MASKS_JOB) == 1


def test_a_job_that_was_edited_by_hand_is_set_right() -> None:
    world = World(teachers=[MASKS])
    world.training()
    world.job(MASKS)["spec"]["backoffLimit"] = 99
    world._touch("Job", world.job(MASKS))
    world.reconcile()
    assert world.job(MASKS)["spec"]["backoffLimit"] == 3


@pytest.mark.parametrize("ended_well", [True, False])
def test_after_its_end_an_edit_is_inspected_and_nothing_runs_again(ended_well: bool) -> None:
    world = World(teachers=[MASKS])
    world.training()
    if ended_well:
        world.succeed(world.pod(MASKS))
    else:
        world.end(world.pod(MASKS), 45, message=failed_message(45, "LossNotFinite", "NaN"))
    world.controllers()
    world.reconcile()
    assert world.terminal
    before = world.status
    world.edit(gpus=4, backoffLimit=0)
    world.advance(1000)
    decision = world.reconcile()
    assert decision.actions.empty
    after = world.status
    assert after.observed_generation == 2
    assert {one.observed_generation for one in after.conditions} == {2}
    same = after.model_copy(update={"observed_generation": 1, "conditions": before.conditions})
    assert same == before


def test_a_run_that_has_ended_needs_no_jobs_any_more() -> None:
    world = World()
    world.run_fairly()
    for name in list(world.jobs):
        world.delete_job(name)
    for _ in range(2):
        world.controllers()
        world.reap()
        world.controllers()
    idle(world)
    assert len(world.made) == 3


# A status that was lost or broken.


def test_a_lost_status_is_restored_from_the_children() -> None:
    world = World()
    world.training()
    before = world.status
    world.break_status()
    world.advance(60)
    world.reconcile()
    assert world.status.run_id == before.run_id
    assert [one.state for one in world.status.teachers] == ["Training", "Pending"]
    world.run_fairly()
    assert len(world.made) == 3


def test_the_status_of_an_ended_run_is_found_again_without_a_gpu() -> None:
    world = World()
    world.run_fairly()
    for name in list(world.jobs):
        world.delete_job(name)
    for _ in range(2):
        world.controllers()
        world.reap()
        world.controllers()
    world.break_status()
    world.published = True
    world.run_fairly()
    assert world.made == [INSPECT_JOB, BOXES_JOB, MASKS_JOB, INSPECT_JOB]


@pytest.mark.parametrize(
    "broken",
    [
        {"conditions": "none"},
        {"conditions": [{"type": "Succeeded", "status": "Maybe", "reason": "X", "lastTransitionTime": "now"}]},
        {"teachers": [{"name": "Yolo", "state": "Training"}]},
        {"gpuSeconds": -1},
        {"startTime": "yesterday"},
    ],
)
def test_an_invalid_status_is_replaced(broken: dict[str, Any]) -> None:
    world = World()
    world.training()
    world.body["status"] |= broken
    world.reconcile()
    assert world.status.run_id == "0123456789ab"
    world.run_fairly()
    assert world.state == ("True", "Succeeded")


@pytest.mark.parametrize("parts", [["teachers"], ["runId"], ["dataset"], ["conditions"], ["startTime"], ["configUri"]])
def test_a_partly_restored_status_reports_nothing_false(parts: list[str]) -> None:
    world = World()
    world.training()
    world.break_status(*parts)
    world.reconcile()
    assert not world.terminal
    world.run_fairly()
    assert world.state == ("True", "Succeeded")
    assert [one.name for one in world.status.teachers] == [BOXES, MASKS]
    assert all(one.adapter is not None for one in world.status.teachers)
    assert world.status.dataset is not None
    jobs = [world.job(name)["spec"]["template"]["spec"]["containers"][0] for name in (BOXES, MASKS)]
    assert all(world.status.config_uri in job["command"] for job in nonempty(jobs))


def test_the_status_of_a_later_operator_can_be_read() -> None:
    status = World().status.model_dump(mode="json", by_alias=True)
    body = body_of() | {"status": status | {"later": {"than": "this"}, "runId": "abc"}}
    assert read_status(body).run_id == "abc"


def test_an_object_of_a_later_crd_names_the_unknown_field() -> None:
    decision = decide(body_of(teleport=True), Observed(), SETTINGS, now=NOW)
    assert decision.actions.empty
    (summary,) = (one for one in decision.status.conditions if one.type == "Succeeded")
    assert "spec.teleport" in summary.message
    assert "CRD" in summary.message


def test_a_setting_refused_only_by_the_models_stops_no_job_and_can_be_fixed() -> None:
    world = World(teachers=[MASKS])
    world.training()
    world.edit(nodeSelector={"not a label": "x"})
    world.reconcile()
    assert world.state == ("Unknown", "ConfigurationInvalid")
    assert condition(world, "Stalled") == ("True", "ConfigurationInvalid")
    assert condition(world, "Reconciling")[0] == "False"
    assert "deletionTimestamp" not in world.job(MASKS)["metadata"]
    idle(world)
    world.edit(nodeSelector=None)
    world.run_fairly()
    assert world.state == ("True", "Succeeded")
    assert world.made == [INSPECT_JOB, MASKS_JOB]


def test_a_run_that_a_later_operator_has_ended_is_left_as_it_is() -> None:
    world = World()
    world.run_fairly()
    world.body["status"]["teachers"][0]["name"] = "TeacherOfTomorrow"
    before = dict(world.body["status"])
    world.edit(gpus=4)
    decision = world.reconcile()
    assert decision.actions.empty
    assert world.body["status"] == before


def test_a_setting_that_only_the_models_refuse_is_reported_in_their_words() -> None:
    decision = decide(body_of(nodeSelector={"not a label": "x"}), Observed(), SETTINGS, now=NOW)
    (summary,) = (one for one in decision.status.conditions if one.type == "Succeeded")
    assert summary.reason == "ConfigurationInvalid"
    assert "spec.nodeSelector" in summary.message
    assert "pattern" in summary.message


# Accounts.


def test_the_gpus_of_all_nodes_are_counted_once() -> None:
    world = World(teachers=[MASKS], nodes=2, gpus=4)
    world.training()
    world.advance(100)
    world.reconcile()
    assert world.teacher().gpu_seconds == 2 * 4 * 100


def test_without_gpus_none_are_counted() -> None:
    world = World(teachers=[MASKS], gpus=0)
    world.training()
    world.advance(100)
    world.reconcile()
    assert world.status.gpu_seconds == 0


def test_gpus_are_counted_as_they_were_taken() -> None:
    world = World(teachers=[MASKS], gpus=1)
    world.training()
    world.advance(1000)
    world.reconcile()
    world.edit(gpus=4)
    world.reconcile()
    world.controllers()
    world.reap()
    world.controllers()
    world.reconcile()
    world.controllers()
    world.run(world.pod(MASKS))
    world.advance(100)
    world.reconcile()
    assert world.teacher().gpu_seconds == 1000 + 4 * 100


def test_every_attempt_counts_though_only_the_last_are_listed() -> None:
    world = World(teachers=[MASKS], backoffLimit=100)
    world.training()
    for _ in range(ATTEMPTS + 4):
        world.advance(100)
        world.end(world.pod(MASKS), 1)
        world.controllers()
        world.reconcile()
        world.run(world.pod(MASKS))
        world.reconcile()
    teacher = world.teacher()
    assert len(teacher.attempts) == ATTEMPTS
    assert teacher.attempt_count == ATTEMPTS + 5
    assert teacher.gpu_seconds == 100 * (ATTEMPTS + 4)
    idle(world)


def test_attempts_of_one_second_stand_in_the_order_in_which_they_ended() -> None:
    start = "2026-01-01T00:00:00Z"
    second = AttemptStatus(pod="a", start_time=start)
    first = AttemptStatus(pod="b", start_time=start, end_time=start, exit_code=42)
    teacher = TeacherStatus(name=MASKS, state="Training", attempts=[second, first], attempt_count=2)
    known = with_attempts(teacher, None, gpu_resource=GPU, now=NOW)
    assert [one.exit_code for one in known.attempts] == [42, None]


def test_pods_that_failed_before_they_ran_are_counted_once() -> None:
    world = World(teachers=[MASKS], backoffLimit=100)
    world.training()
    for number in range(ATTEMPTS + 4):
        pod = world.pod(MASKS)
        if number % 2:
            pod["status"] |= {"phase": "Failed", "reason": "Evicted", "message": "The node had: [DiskPressure]."}
            ended = {"exitCode": 137, "reason": "ContainerStatusUnknown", "startedAt": None, "finishedAt": None}
            world._container(pod, {"terminated": ended})
        else:
            world.end(pod, 1)
        world.controllers()
        world.advance(10)
        world.reconcile()
    count = world.teacher().attempt_count
    assert count >= ATTEMPTS
    assert all(one.gpu_seconds == 0 for one in world.teacher().attempts if one.start_time is None)
    for _ in range(3):
        idle(world)
    assert world.teacher().attempt_count == count


def test_an_attempt_whose_pod_is_gone_has_ended() -> None:
    world = World(teachers=[MASKS])
    world.training()
    world.remove_pod(world.pod(MASKS))
    world.advance(100)
    world.reconcile()
    (attempt,) = world.teacher().attempts
    assert (attempt.end_time, attempt.reason) == ("2026-03-01T12:01:40Z", "Gone")
    world.advance(100)
    world.reconcile()
    assert world.teacher().attempts == [attempt]


# Bounds.


@pytest.mark.parametrize("length", [500, 5000, 50_000])
def test_a_very_long_message_of_a_node_can_be_written(length: int) -> None:
    world = World(pendingDeadlineSeconds=60)
    said = "x" * length
    world.reconcile()
    world.controllers()
    world.waits(world.pod(), reason="ErrImagePull", message=said)
    world.reconcile()
    world.succeed(world.pod())
    world.controllers()
    world.reconcile()
    for teacher in (BOXES, MASKS):
        world.controllers()
        world.run(world.pod(teacher))
        world.end(world.pod(teacher), 128, reason="StartError", message=said)
        world.logs[world.pod(teacher)["metadata"]["name"]] = [said] * 100
        world.controllers()
        world.waits(world.pod(teacher), reason="CreateContainerError", message=said)
        world.reconcile()
        world.events["Pod", world.pod(teacher)["metadata"]["name"]] = [said]
        world.waits(world.pod(teacher), reason="ContainerCreating")
        world.advance(61)
        world.reconcile()
    assert world.state == ("False", "NotStartedInTime")


def test_an_inspection_outcome_without_result_ends_the_run() -> None:
    world = World()
    world.reconcile()
    world.controllers()
    world.run(world.pod())
    world.end(world.pod(), 0, message=Outcome().to_message())
    world.controllers()
    world.reconcile()
    assert world.state == ("False", "OutcomeUnreadable")

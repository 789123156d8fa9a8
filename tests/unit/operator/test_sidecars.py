"""Containers that a cluster adds to pods, and that run on when ours has ended."""

from __future__ import annotations

from typing import Any

import pytest
from tft_objects import BOXES, MASKS, failed_message, prepared_of, trained_of
from tft_world import PROXY, World, world_with_pod_of

from engine.results.outcome import Outcome
from engine.spec import TeacherName
from teacher_operator.decide.sidecars import SIDECAR_SECONDS

PARTS = pytest.mark.parametrize("teacher", [None, MASKS], ids=["inspection", "trainer"])
DATA = failed_message(41, "DataInvalid", "The file lists no images.")


def done(teacher: TeacherName | None) -> str:
    found = Outcome(prepared=prepared_of(MASKS)) if teacher is None else Outcome(trained=trained_of(teacher))
    return found.to_message()


def ends_with_sidecar(
    world: World, pod: dict[str, Any], code: int, message: str = "", *, proxy: int | None = None
) -> None:
    """End the main container while a sidecar runs, and reconcile."""
    world.end_with_sidecar(pod, code, message=message, proxy=proxy)
    world.controllers()
    world.reconcile()


def wait_for_sidecars(world: World) -> None:
    world.advance(SIDECAR_SECONDS + 1)
    world.reconcile()


def remove_deleted(world: World) -> None:
    """Remove the Jobs that the operator has deleted."""
    world.reconcile()
    world.controllers()
    world.reap()
    world.controllers()
    world.reconcile()


def test_a_proxy_that_outlives_a_trainer_that_is_done_is_reported_and_ended() -> None:
    world = world_with_pod_of(MASKS, reconciled=True)
    ends_with_sidecar(world, world.pod(MASKS), 0, done(MASKS))
    assert world.state == ("Unknown", "Training")
    assert f"the trainer has ended, but {PROXY} still runs in pod" in world.summary[2]
    wait_for_sidecars(world)
    assert world.state == ("True", "Succeeded")
    assert f"{PROXY} still ran after its end" in world.teacher().message
    remove_deleted(world)
    assert not world.has_job(MASKS), "the GPU is free"
    assert list(world.live_pods()) == []


@PARTS
def test_a_proxy_that_outlives_a_permanent_failure_does_not_hide_it(teacher: TeacherName | None) -> None:
    world = world_with_pod_of(teacher, reconciled=True)
    pod = world.pod(teacher)
    world.logs[pod["metadata"]["name"]] = ["no images"]
    ends_with_sidecar(world, pod, 41, DATA)
    assert not world.terminal
    wait_for_sidecars(world)
    assert world.state == ("False", "DataInvalid")
    assert f"The file lists no images.; {PROXY} still ran after its end" in world.summary[2]
    remove_deleted(world)
    assert not world.has_job(teacher)


@PARTS
def test_a_proxy_that_outlives_a_failure_does_not_keep_the_next_attempt_from_it(teacher: TeacherName | None) -> None:
    world = world_with_pod_of(teacher, backoffLimit=2, reconciled=True)
    for attempt in range(3):
        ends_with_sidecar(world, world.pod(teacher), 43, failed_message(43, "StorageUnavailable", "The store is gone."))
        assert not world.terminal
        wait_for_sidecars(world)
        if attempt < 2:
            assert not world.terminal
            for _ in range(2):
                remove_deleted(world)
            world.run(world.pod(teacher))
    assert world.state == ("False", "StorageUnavailable")
    assert "(Job 3, the last)" in world.summary[2]
    remove_deleted(world)
    assert not world.has_job(teacher)


def test_inspection_whose_proxy_runs_on_is_done() -> None:
    world = world_with_pod_of(None, reconciled=True)
    ends_with_sidecar(world, world.pod(), 0, done(None))
    assert "inspection has ended" in world.summary[2]
    wait_for_sidecars(world)
    remove_deleted(world)
    assert not world.has_job(), "its pod is gone"
    world.run_fairly()
    assert world.state == ("True", "Succeeded")


@PARTS
def test_a_proxy_that_ends_in_time_changes_nothing(teacher: TeacherName | None) -> None:
    world = world_with_pod_of(teacher, reconciled=True)
    pod = world.pod(teacher)
    ends_with_sidecar(world, pod, 0, done(teacher))
    world.end(pod, 0, message=done(teacher))
    world.controllers()
    world.reconcile()
    assert world.has_job(teacher)
    world.run_fairly()
    assert world.state == ("True", "Succeeded")
    assert PROXY not in world.teacher().message


@PARTS
def test_a_proxy_that_fails_after_the_trainer_has_succeeded_is_ignored(teacher: TeacherName | None) -> None:
    """Its Job counts a failure; the result of ours exists."""
    world = world_with_pod_of(teacher, backoffLimit=0, reconciled=True)
    ends_with_sidecar(world, world.pod(teacher), 0, done(teacher), proxy=137)
    world.reconcile()
    if teacher is not None:
        assert world.state == ("True", "Succeeded")
    world.run_fairly()
    assert world.state == ("True", "Succeeded")


def test_a_pod_that_is_being_deleted_is_left_to_its_node() -> None:
    world = world_with_pod_of(MASKS, reconciled=True)
    pod = world.pod(MASKS)
    world.delete_pod(pod)
    ends_with_sidecar(world, pod, 143, failed_message(143, "Interrupted", "SIGTERM arrived"))
    wait_for_sidecars(world)
    assert "is being stopped" in world.summary[2]
    assert not world.job(MASKS)["metadata"].get("deletionTimestamp")


def test_a_sidecar_of_one_teacher_does_not_affect_the_other() -> None:
    world = World(teachers=[BOXES, MASKS])
    world.training()
    ends_with_sidecar(world, world.pod(BOXES), 45, failed_message(45, "LossNotFinite", "NaN"))
    wait_for_sidecars(world)
    assert world.teacher(BOXES).state == "Failed"
    remove_deleted(world)
    assert not world.has_job(BOXES)
    world.controllers()
    world.run_fairly()
    assert world.teacher(MASKS).state == "Succeeded"


def test_over_several_nodes_a_result_is_taken_when_all_have_ended() -> None:
    world = World(teachers=[MASKS], nodes=2, gpus=1)
    world.training()
    first, second = world.pods_of(world.job(MASKS))
    ends_with_sidecar(world, first, 0, done(MASKS))
    wait_for_sidecars(world)
    assert not world.terminal
    ends_with_sidecar(world, second, 0, Outcome().to_message())
    wait_for_sidecars(world)
    assert world.state == ("True", "Succeeded")


def test_a_suspended_run_reports_the_gpu_held_by_a_proxy() -> None:
    world = world_with_pod_of(MASKS, reconciled=True)
    ends_with_sidecar(world, world.pod(MASKS), 0, done(MASKS))
    world.edit(suspend=True)
    world.reconcile()
    assert "no pod is left" not in world.summary[2]

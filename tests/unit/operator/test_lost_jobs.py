"""Jobs that ended while nothing says why: a run is never lost to them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from tft_objects import MASKS, disrupted, failed_message
from tft_world import World, world_with_pod_of

from engine.results.outcome import Outcome
from engine.spec import TeacherName
from teacher_operator.decide.lost_jobs import MAX_REPLACEMENTS

PARTS = pytest.mark.parametrize("teacher", [None, MASKS], ids=["inspection", "trainer"])
STARTED: list[int] = [0, 1, 2, 128, 137, 139, 143, 255]
"""Exit codes of a container that is stopped as it starts."""

OTHER_CODES = (2, 3, 7, 10)
"""Exit codes of a failure policy that an admission webhook has edited: other programs use them too."""


def ends(world: World, teacher: TeacherName | None, code: int, **how: Any) -> None:
    """End the container, let the Job controller count it, and reconcile."""
    world.end(world.pod(teacher), code, **how)
    world.controllers()
    world.reconcile()


def edit_failure_policy(world: World, teacher: TeacherName | None) -> None:
    """The FailJob rule gets other exit codes than those of the engine."""
    rules = copy.deepcopy(world.job(teacher)["spec"]["podFailurePolicy"]["rules"])
    next(rule for rule in rules if rule["action"] == "FailJob")["onExitCodes"]["values"] = [*OTHER_CODES]
    world.job(teacher)["spec"]["podFailurePolicy"]["rules"] = rules


def is_stopped(world: World, teacher: TeacherName | None, code: int) -> None:
    """The pod is deleted, as when its run is suspended, and its container ends with this code and no word."""
    world.delete_pod(world.pod(teacher))
    ends(world, teacher, code)


def is_disrupted(world: World, teacher: TeacherName | None, code: int) -> None:
    """The pod is preempted, drained or evicted."""
    ends(world, teacher, code, conditions=disrupted("PreemptionByScheduler", "preempted"))


@pytest.mark.parametrize("stopped", [is_stopped, is_disrupted])
@pytest.mark.parametrize("code", STARTED)
@PARTS
def test_a_pod_that_is_stopped_as_it_starts_loses_no_run_even_without_retries(
    teacher: TeacherName | None, code: int, stopped: Callable[[World, TeacherName | None, int], None]
) -> None:
    world = world_with_pod_of(teacher, backoffLimit=0)
    if teacher is None:
        world.job()["spec"]["backoffLimit"] = 0
    stopped(world, teacher, code)
    assert not world.terminal, world.summary
    world.run_fairly()
    assert world.state == ("True", "Succeeded")


@pytest.mark.parametrize("gone", [False, True], ids=["pod-stays", "pod-is-gone"])
@pytest.mark.parametrize("code", OTHER_CODES)
@PARTS
def test_a_job_with_another_failure_policy_is_judged_by_its_outcome(
    teacher: TeacherName | None, code: int, *, gone: bool
) -> None:
    world = world_with_pod_of(teacher)
    edit_failure_policy(world, teacher)
    pod = world.pod(teacher)
    world.end(pod, code)
    world.controllers()
    if gone:
        world.remove_pod(pod)
    world.reconcile()
    assert not world.terminal, world.summary
    world.run_fairly()
    assert world.state == ("True", "Succeeded")


@PARTS
def test_a_permanent_failure_ends_the_run_with_any_failure_policy(teacher: TeacherName | None) -> None:
    world = world_with_pod_of(teacher)
    edit_failure_policy(world, teacher)
    ends(world, teacher, 41, message=failed_message(41, "DataInvalid", "The file lists no images."))
    assert world.job(teacher)["spec"]["backoffLimit"] == 0
    world.controllers()
    world.reap()  # a Job fails once its last pod is gone
    world.controllers()
    world.reconcile()
    assert world.state == ("False", "DataInvalid")


@pytest.mark.parametrize("code", [45, 48, 41])
@PARTS
def test_repeatedly_lost_jobs_end_the_run(teacher: TeacherName | None, code: int) -> None:
    world = world_with_pod_of(teacher)
    for count in range(1, MAX_REPLACEMENTS + 2):
        assert not world.terminal
        assert world.made.count(world.job(teacher)["metadata"]["name"]) == count
        ends(world, teacher, code)
        if count <= MAX_REPLACEMENTS:
            world.reconcile()  # it counts once, however often it is read
            world.controllers()
            world.reconcile()
            world.controllers()
            world.run(world.pod(teacher))
    assert world.state[0] == "False"
    assert f"(Job {MAX_REPLACEMENTS + 1}, the last)" in world.summary[2]
    assert f"exit code {code}" in world.summary[2]


@PARTS
def test_a_container_that_ends_well_before_our_process_ran_is_started_again_and_not_without_end(
    teacher: TeacherName | None,
) -> None:
    world = world_with_pod_of(teacher)
    for _ in range(MAX_REPLACEMENTS + 1):
        assert not world.terminal
        ends(world, teacher, 0)
        world.reconcile()
        world.controllers()
        world.reconcile()
        world.controllers()
        if not world.terminal:
            world.run(world.pod(teacher))
    assert world.state == ("False", "NothingLeft")


def test_the_last_of_the_allowed_attempts_is_the_last() -> None:
    world = world_with_pod_of(MASKS, backoffLimit=0)
    ends(world, MASKS, 1)
    assert world.state == ("False", "Crashed")


def test_over_several_nodes_pods_that_their_job_deletes_do_not_hide_the_one_that_failed() -> None:
    world = World(teachers=[MASKS], nodes=2, gpus=1, backoffLimit=0)
    world.training()
    first, second = world.pods_of(world.job(MASKS))
    world.end(first, 137, reason="OOMKilled")
    world.delete_pod(second)
    world.end(second, 143, message=failed_message(143, "Interrupted", "SIGTERM arrived"))
    world.controllers()
    world.reconcile()
    assert world.state == ("False", "OutOfMemory")


def test_a_stop_after_a_permanent_failure_does_not_hide_it() -> None:
    world = world_with_pod_of(MASKS)
    world.delete_pod(world.pod(MASKS))
    ends(world, MASKS, 45, message=failed_message(45, "LossNotFinite", "The loss is NaN."))
    assert world.state == ("False", "LossNotFinite")


def test_a_suspended_run_stays_suspended_while_its_lost_job_is_deleted() -> None:
    world = world_with_pod_of(MASKS)
    ends(world, MASKS, 45)
    world.edit(suspend=True)
    world.reconcile()
    assert world.state == ("Unknown", "Suspended")
    world.run_fairly()
    assert world.state == ("True", "Succeeded")


def test_an_outcome_without_a_result_is_of_another_version() -> None:
    world = world_with_pod_of(MASKS)
    ends(world, MASKS, 0, message=Outcome().to_message())
    assert world.state == ("False", "OutcomeUnreadable")

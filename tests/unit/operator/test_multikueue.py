"""Jobs that MultiKueue sends to another cluster: nothing but their status comes back."""

from __future__ import annotations

from typing import Any

import pytest
from tft_objects import BOXES, MASKS, SETTINGS
from tft_world import World

from engine.errors import DataError, LossNotFiniteError
from teacher_operator.api.names import KUEUE_QUEUE
from teacher_operator.api.timestamps import timestamp

MULTIKUEUE = "kueue.x-k8s.io/multikueue"
COMPLETE = {"conditions": [{"type": "Complete", "status": "True"}], "succeeded": 1}


def dispatched(**changes: Any) -> World:
    """A trainer that has been admitted to another cluster."""
    world = World(**{"teachers": [MASKS], "queueName": "team-a", "managedBy": MULTIKUEUE, **changes})
    world.inspected()
    assert world.job(world.teachers[0])["spec"]["managedBy"] == MULTIKUEUE
    world.kueue(admit=True)
    world.reconcile()
    return world


def failed(reason: str, message: str) -> dict[str, Any]:
    return {"conditions": [{"type": "Failed", "status": "True", "reason": reason, "message": message}], "failed": 1}


def test_a_job_running_in_another_cluster_is_reported_without_progress() -> None:
    world = dispatched()
    assert world.state == ("Unknown", "Pending")
    assert "another cluster" in world.teacher().message
    world.multikueue(MASKS, active=1, ready=1, startTime=timestamp(world.now))
    world.reconcile()
    assert world.state == ("Unknown", "Training")
    assert world.teacher().message == "runs in another cluster: its log there shows the progress"


def test_the_published_result_is_read_by_a_local_job_without_gpu() -> None:
    world = dispatched()
    world.multikueue(MASKS, **COMPLETE)
    world.reconcile()
    assert world.teacher().dispatched
    world.controllers()
    world.reconcile()
    job = world.job(MASKS)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["image"] == SETTINGS.operator_image
    assert container["command"][:2] == ["teacher", "result"]
    assert "nvidia.com/gpu" not in container["resources"].get("limits", {})
    assert KUEUE_QUEUE not in job["metadata"]["labels"]
    assert "managedBy" not in job["spec"]
    assert not job["spec"]["suspend"]
    world.run_fairly()
    assert world.state == ("True", "Succeeded")
    assert world.teacher().adapter is not None
    assert world.teacher().gpu_seconds == 0


def test_both_teachers_are_trained_elsewhere_one_after_the_other() -> None:
    world = dispatched(teachers=[BOXES, MASKS])
    world.multikueue(BOXES, **COMPLETE)
    for _ in range(20):
        world.reconcile()
        if world.has_job(MASKS):
            break
        world.step()
    assert world.teacher(BOXES).state == "Succeeded"
    assert world.job(MASKS)["spec"]["managedBy"] == MULTIKUEUE
    world.multikueue(MASKS, **COMPLETE)
    world.run_fairly()
    assert world.state == ("True", "Succeeded")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (DataError.exit_code, "DataInvalid"),
        (LossNotFiniteError.exit_code, "LossNotFinite"),
        (99, "Crashed"),
        (None, "BackoffLimitExceeded"),
    ],
)
def test_a_failure_has_the_message_of_the_job(code: int | None, reason: str) -> None:
    world = dispatched()
    message = f"Container trainer for pod a/b failed with exit code {code} matching FailJob rule at index 1"
    if code is None:
        world.multikueue(MASKS, **failed("BackoffLimitExceeded", "Job has reached the specified backoff limit"))
    else:
        world.multikueue(MASKS, **failed("PodFailurePolicy", message))
    world.reconcile()
    assert world.state == ("False", reason)
    assert "in another cluster" in world.summary[2]
    assert len(world.made) == 2, "nothing is made in its place"


def test_a_job_that_kueue_itself_hands_to_multikueue_is_read_the_same_way() -> None:
    """Its webhook sets the field when the Job is made."""
    world = World(teachers=[MASKS], queueName="team-a")
    world.inspected()
    world.job(MASKS)["spec"]["managedBy"] = MULTIKUEUE
    world._touch("Job", world.job(MASKS))
    world.kueue(admit=True)
    world.multikueue(MASKS, **COMPLETE)
    world.run_fairly()
    assert world.state == ("True", "Succeeded")


def test_a_job_that_is_its_own_controllers_is_one_of_this_cluster() -> None:
    world = World(teachers=[MASKS])
    world.inspected()
    world.job(MASKS)["spec"]["managedBy"] = "kubernetes.io/job-controller"
    view = world.observed({}).jobs[MASKS.value]
    assert not view.elsewhere

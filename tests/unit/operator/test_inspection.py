"""How long inspection may wait and run: only what its container runs counts towards the limit of the latter."""

from __future__ import annotations

import pytest
from tft_objects import NAME, NOW, unschedulable
from tft_world import World

from engine.stages import INSPECTION
from teacher_operator.api.names import inspect_job
from teacher_operator.api.status import FailureStatus

JOB = inspect_job(NAME)
RUN_LIMIT_SECONDS = INSPECTION.run_limit_seconds or 0
SECRET = ("CreateContainerConfigError", 'couldn\'t find key AWS_ACCESS_KEY_ID in Secret "vision/s3-keys"')
IMAGE = ("ImagePullBackOff", "Back-off pulling image")
TAINTED = "0/2 nodes are available: 2 node(s) had untolerated taint {dedicated: ml}."
QUOTA = FailureStatus(reason="Forbidden", message=f"Job {JOB} may not be created: exceeded quota")


def begun(**spec: object) -> World:
    """A run whose inspection has a pod."""
    world = World(**spec)
    world.reconcile()
    world.controllers()
    return world


def block_pod(world: World, cause: str) -> str:
    """Keep the pod from running; return the expected message."""
    if cause == "taints":
        world.waits(world.pod(), conditions=unschedulable(TAINTED))
        return TAINTED
    reason, message = {"secret": SECRET, "image": IMAGE}[cause]
    world.waits(world.pod(), reason=reason, message=message)
    return message


@pytest.mark.parametrize("cause", ["secret", "image", "taints"])
def test_a_long_wait_is_not_a_failure_and_reports_its_reason(cause: str) -> None:
    world = begun()
    said = block_pod(world, cause)
    world.advance(30 * 86_400)
    world.controllers()
    world.reconcile()
    assert world.state == ("Unknown", "Inspecting")
    assert said in world.summary[2]
    world.run(world.pod())
    world.reconcile()
    assert world.summary[1:] == ("Inspecting", "the data is being inspected")
    world.run_fairly()
    assert world.state == ("True", "Succeeded")


@pytest.mark.parametrize("cause", ["secret", "image", "taints"])
def test_a_wait_past_its_deadline_fails_with_its_cause(cause: str) -> None:
    world = begun(pendingDeadlineSeconds=600)
    said = block_pod(world, cause)
    world.advance(590)
    decision = world.reconcile()
    assert world.state == ("Unknown", "Inspecting")
    assert decision.actions.requeue_at is not None
    assert decision.actions.requeue_at <= NOW + 600
    world.advance(10)
    world.reconcile()
    assert world.state == ("False", "NotStartedInTime")
    assert world.summary[2].startswith("not running after pendingDeadlineSeconds = 600: ")
    assert said in world.summary[2]
    assert world.job()["metadata"]["deletionTimestamp"]


def test_a_job_that_is_refused_waits_for_its_deadline_and_no_longer() -> None:
    world = World(pendingDeadlineSeconds=600)
    world.refusals[JOB] = QUOTA
    world.reconcile()
    world.advance(590)
    decision = world.reconcile()
    assert (world.state, decision.actions.retry) == (("Unknown", "Pending"), True)
    assert decision.actions.requeue_at == world.now + 10
    world.advance(10)
    world.reconcile()
    assert world.state == ("False", "NotStartedInTime")
    assert "exceeded quota" in world.summary[2]


def test_refusals_that_lie_apart_are_not_one_wait() -> None:
    world = World(pendingDeadlineSeconds=600)
    world.refusals[JOB] = QUOTA
    world.reconcile()
    assert world.status.stages[0].refused_since
    world.edit(suspend=True)
    world.reconcile()
    assert world.status.stages[0].refused_since is None
    world.advance(86_400)
    world.edit(suspend=None)
    world.reconcile()
    assert world.state == ("Unknown", "Pending")


def test_a_suspended_inspection_does_not_wait() -> None:
    world = begun(pendingDeadlineSeconds=600)
    block_pod(world, "image")
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
    assert world.state == ("Unknown", "Inspecting")


def test_the_wait_restarts_after_an_attempt_that_ran() -> None:
    world = begun(pendingDeadlineSeconds=600)
    world.run(world.pod())
    world.advance(3600)
    world.end(world.pod(), 5)
    world.controllers()
    block_pod(world, "image")
    world.reconcile()
    assert world.state == ("Unknown", "Inspecting")
    world.advance(600)
    world.reconcile()
    assert world.state == ("False", "NotStartedInTime")


def test_an_inspection_that_never_ends_is_stopped() -> None:
    """The time before its container started, days of it, has no part in that."""
    world = begun()
    block_pod(world, "secret")
    world.advance(5 * 86_400)
    world.run(world.pod())
    decision = world.reconcile()
    assert decision.actions.requeue_at == world.now + RUN_LIMIT_SECONDS
    world.advance(RUN_LIMIT_SECONDS - 1)
    world.reconcile()
    assert world.state == ("Unknown", "Inspecting")
    world.advance(1)
    world.reconcile()
    assert world.state == ("False", "DeadlineExceeded")
    assert "inspection has run for 4 hours" in world.summary[2]
    assert world.job()["metadata"]["deletionTimestamp"]


def test_all_attempts_count_together() -> None:
    world = begun()
    world.run(world.pod())
    world.advance(RUN_LIMIT_SECONDS - 100)
    world.end(world.pod(), 5)
    world.controllers()
    block_pod(world, "image")
    world.advance(86_400)
    world.reconcile()
    world.run(world.pod())
    world.advance(99)
    world.reconcile()
    assert world.state == ("Unknown", "Inspecting")
    world.advance(1)
    world.reconcile()
    assert world.state == ("False", "DeadlineExceeded")


def test_a_job_of_an_earlier_version_loses_its_deadline() -> None:
    world = begun()
    block_pod(world, "secret")
    world.job()["spec"]["activeDeadlineSeconds"] = RUN_LIMIT_SECONDS
    world._touch("Job", world.job())
    world.reconcile()
    assert "activeDeadlineSeconds" not in world.job()["spec"]
    world.advance(86_400)
    world.controllers()
    world.run(world.pod())
    world.run_fairly()
    assert world.state == ("True", "Succeeded")

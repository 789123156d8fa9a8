"""Settings that meet: deadlines with several nodes, other clusters, suspension and an operator that is killed."""

from __future__ import annotations

from typing import Any

import pytest
from tft_objects import GPU, MASKS, SETTINGS, unschedulable
from tft_world import World

from engine.results.events import Event
from teacher_operator.api.settings import Allowed
from teacher_operator.api.timestamps import timestamp
from teacher_operator.decide import gang_release
from teacher_operator.decide.lost_jobs import MAX_REPLACEMENTS

HOURS = 10 * 3600
MULTIKUEUE = {"teachers": [MASKS], "queueName": "team-a", "managedBy": "kueue.x-k8s.io/multikueue"}
COMPLETE = {"conditions": [{"type": "Complete", "status": "True"}], "succeeded": 1}


def elsewhere(**changes: Any) -> World:
    """A trainer that runs in another cluster."""
    world = World(**{**MULTIKUEUE, **changes})
    world.inspected()
    world.kueue(admit=True)
    world.multikueue(MASKS, active=1, ready=1, startTime=timestamp(world.now))
    world.reconcile()
    assert world.state == ("Unknown", "Training")
    return world


@pytest.mark.parametrize("drained", [True, False])
def test_the_wait_for_one_of_several_nodes_begins_when_it_is_lost(drained: bool) -> None:
    world = World(teachers=[MASKS], pendingDeadlineSeconds=600, nodes=2, gpus=1)
    world.training()
    world.advance(HOURS)
    world.reconcile()
    _, second = world.pods_of(world.job(MASKS))
    if drained:
        world.delete_pod(second)
        world.reconcile()
        world.reap()
    else:
        world.end(second, 1)
    for _ in range(3):
        world.reconcile()
        assert world.state in {("Unknown", "Pending"), ("Unknown", "Starting")}, world.summary
        world.controllers()
    world.advance(599)
    world.reconcile()
    assert not world.terminal
    world.advance(2)
    world.reconcile()
    assert world.state == ("False", "NotStartedInTime")


def test_the_wait_in_another_cluster_begins_when_its_pod_is_lost() -> None:
    world = elsewhere(pendingDeadlineSeconds=600)
    start = timestamp(world.now)
    world.advance(HOURS)
    world.multikueue(MASKS, active=1, ready=0, startTime=start)
    world.reconcile()
    assert world.state == ("Unknown", "Pending")
    world.advance(601)
    world.reconcile()
    assert world.state == ("False", "NotStartedInTime")


def test_time_in_which_its_user_suspends_it_is_no_wait_for_gpus() -> None:
    world = World(teachers=[MASKS], pendingDeadlineSeconds=6000, nodes=2, gpus=1, gangTimeoutSeconds=30)
    world.inspected()
    world.controllers()
    first, second = world.pods_of(world.job(MASKS))
    world.run(first)
    world.waits(second, conditions=unschedulable(f"0/3 nodes are available: 3 Insufficient {GPU}."))
    world.reconcile()
    world.advance(100)
    world.reconcile()
    assert gang_release.Rounds.of(world.job(MASKS)).since
    world.edit(suspend=True)
    world.reconcile()
    world.controllers()
    world.reap()
    world.controllers()
    world.advance(HOURS)
    world.reconcile()
    world.edit(suspend=None)
    world.reconcile()
    assert not world.terminal, world.summary
    assert gang_release.Rounds.of(world.job(MASKS)).count == 1
    world.run_fairly()
    assert world.state == ("True", "Succeeded")


def test_the_result_from_another_cluster_is_read_even_without_time_left() -> None:
    world = elsewhere(activeDeadlineSeconds=3600)
    begun = timestamp(world.now)
    world.advance(3599)
    world.multikueue(MASKS, startTime=begun, **COMPLETE)
    world.reconcile()
    world.controllers()
    world.reconcile()
    assert "activeDeadlineSeconds" not in world.job(MASKS)["spec"]
    world.advance(60)
    world.run_fairly()
    assert world.state == ("True", "Succeeded")


def test_a_killed_operator_does_not_repeat_training_done_in_another_cluster() -> None:
    world = elsewhere()
    world.multikueue(MASKS, **COMPLETE)
    world._do(world.decide(), {})  # killed before it has written the status
    world.controllers()
    world.reconcile()
    world.controllers()
    world.reconcile()
    assert "managedBy" not in world.job(MASKS)["spec"]


@pytest.mark.parametrize("trains", [True, False])
def test_lost_jobs_are_counted_in_a_row(trains: bool) -> None:
    world = World(teachers=[MASKS])
    world.inspected()
    for _ in range(MAX_REPLACEMENTS + 3):
        if world.terminal:
            break
        world.controllers()
        pod = world.pod(MASKS)
        world.run(pod)
        if trains:
            name = pod["metadata"]["name"]
            world.logs[name] = [Event(event="step", time=world.now, step=3, steps=9).line()]
        world.reconcile()
        world.end(pod, 40)  # stopped from outside: no outcome
        world.controllers()
        world.reconcile()
        world.controllers()
        world.reconcile()
    assert world.terminal is not trains


def test_the_secret_of_the_store_is_one_that_is_allowed() -> None:
    settings = SETTINGS.model_copy(update={"allowed": Allowed(secrets=("team-*",))})
    storage = {"credentialsSecretRef": {"name": "admin-keys"}}
    world = World(teachers=[MASKS], settings=settings, storage=storage)
    world.reconcile()
    assert world.made == []
    assert "spec.storage.credentialsSecretRef: admin-keys is not allowed" in world.summary[2]
    world.edit(storage={"credentialsSecretRef": {"name": "team-keys"}})
    world.reconcile()
    assert world.made

"""Runs over several nodes: all of their pods start, or none holds a GPU for long. Several worlds share a few GPUs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from loops import nonempty
from tft_objects import BOXES, GPU, MASKS, NOW, SETTINGS
from tft_world import World

from teacher_operator.api.names import GANG, SUSPENDED
from teacher_operator.api.status import AttemptStatus
from teacher_operator.api.timestamps import seconds, timestamp
from teacher_operator.decide import gang_release
from teacher_operator.decide.pod_state import is_live, is_over

TIMEOUT = SETTINGS.gang_timeout_seconds


def started(**changes: Any) -> World:
    """A run of two nodes with a GPU each, whose pods are made and wait."""
    world = World(**{"teachers": [MASKS], "nodes": 2, "gpus": 1, **changes})
    world.inspected()
    world.controllers()
    return world


def half_started(**changes: Any) -> World:
    """The first of two pods runs, and for the second there is no GPU."""
    world = started(**changes)
    first, second = world.pods_of(world.job(MASKS))
    world.run(first, node="node-a")
    world.waits(second, conditions=unschedulable())
    world.reconcile()
    return world


def unschedulable() -> list[dict[str, Any]]:
    message = f"0/3 nodes are available: 3 Insufficient {GPU}."
    return [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]


def released(world: World) -> World:
    """The time is over, and the pods are gone."""
    world.advance(2 * TIMEOUT)
    world.reconcile()
    settle(world)
    return world


def settle(world: World) -> None:
    world.controllers()
    world.reap()
    world.controllers()
    world.reconcile()


def resume_time(world: World) -> float:
    """Return the time at which a paused run is resumed."""
    return seconds(gang_release.Rounds.of(world.job(MASKS)).again) or 0.0


def live(world: World) -> list[dict[str, Any]]:
    return [pod for pod in world.pods.values() if not is_over(pod)]


# One run.


def test_the_status_reports_held_gpus_and_their_release_time() -> None:
    world = half_started(gpus=8)
    message = world.teacher().message
    assert "1 of 2 pods holds 8 GPUs on node node-a; released at 2026-03-01T12:0" in message
    assert f"no node has 8 free {GPU}" in message
    assert world.state == ("Unknown", "Pending")


def test_gpus_that_are_held_in_vain_are_given_back_once_the_time_is_over_and_not_before() -> None:
    world = half_started()
    world.advance(TIMEOUT - 1)
    world.reconcile()
    assert not world.job(MASKS)["spec"]["suspend"]
    released(world)
    assert world.job(MASKS)["spec"]["suspend"]
    assert live(world) == []
    assert world.state == ("Unknown", "Pending")
    assert "released them (round 1); all are started again at 2026-" in world.teacher().message
    assert world.teacher().releases == 1


def test_the_decision_comes_back_when_the_time_is_over() -> None:
    world = half_started()
    at = world.reconcile().actions.requeue_at
    assert at is not None
    part = gang_release.partial_start(world.observed({}).jobs[MASKS.value], "trainer")
    assert part is not None
    due = gang_release.release_at(part, world.observed({}).jobs[MASKS.value], timeout=TIMEOUT)
    assert NOW + TIMEOUT <= due <= NOW + 1.5 * TIMEOUT + 60
    world.now = due
    decision = world.reconcile()
    assert decision.actions.patch


def test_after_the_pause_all_pods_start_and_the_rounds_are_reset_once_all_run() -> None:
    world = released(half_started())
    world.now = resume_time(world) - 1
    world.reconcile()
    assert world.job(MASKS)["spec"]["suspend"]
    world.now = resume_time(world)
    world.reconcile()
    assert not world.job(MASKS)["spec"]["suspend"]
    world.controllers()
    for pod in live(world):
        world.run(pod)
    world.reconcile()
    assert world.teacher().state == "Training"
    assert world.teacher().releases == 0
    assert GANG not in world.job(MASKS)["metadata"]["annotations"]
    world.run_fairly()
    assert world.state == ("True", "Succeeded")


def test_no_retry_is_spent() -> None:
    world = half_started(backoffLimit=0)
    for _ in range(5):
        released(world)
        assert world.state == ("Unknown", "Pending")
        world.now = resume_time(world)
        world.reconcile()
        world.controllers()
        first, second = live(world)
        world.run(first)
        world.waits(second, conditions=unschedulable())
        world.reconcile()
    world.run_fairly()
    assert world.state == ("True", "Succeeded")


def test_every_pause_is_longer_than_the_one_before_up_to_a_limit() -> None:
    world = half_started()
    pauses = []
    for _ in range(8):
        world.advance(2 * TIMEOUT)
        world.reconcile()
        pauses.append(resume_time(world) - world.now)
        settle(world)
        world.now = resume_time(world)
        world.reconcile()
        world.controllers()
        first, second = live(world)
        world.run(first)
        world.waits(second, conditions=unschedulable())
        world.reconcile()
    for round_, pause in enumerate(nonempty(pauses)):
        longest = TIMEOUT * min(12, 2**round_)
        assert longest / 2 - 1 <= pause <= 1.5 * longest


def test_pauses_of_two_jobs_differ() -> None:
    pauses = {resume_time(released(half_started(first_uid=1000 * n))) for n in range(1, 6)}
    assert len(pauses) == 5


@pytest.mark.parametrize("case", ["one node", "Kueue", "all placed", "none placed", "pulling", "all run"])
def test_no_gpus_are_released_without_a_partial_start(case: str) -> None:
    changes = {"one node": {"nodes": 1}, "Kueue": {"queueName": "team-a"}}.get(case, {})
    world = started(**changes)
    world.kueue(admit=True)
    world.controllers()
    pods = world.pods_of(world.job(MASKS))
    for pod in pods[1:] if case in {"one node", "Kueue"} else []:
        world.waits(pod, conditions=unschedulable())
    if case in {"one node", "none placed"}:
        world.waits(pods[0], conditions=unschedulable())
    elif case != "all placed":
        world.run(pods[0])
    if case in {"all placed", "pulling", "all run"}:
        for pod in pods:
            world.run(pod)
            if case != "all run" and pod is pods[-1]:
                pod["status"]["phase"] = "Pending"
                world.waits(pod, reason="ContainerCreating")
    for _ in range(20):
        world.advance(TIMEOUT)
        assert not any(patch["spec"].get("suspend") for _, patch in world.reconcile().actions.patch)
    assert "released" not in world.teacher().message


def test_a_pod_that_was_never_made_is_waited_for_no_longer_than_one_without_a_node() -> None:
    """A quota with one GPU left for each of two runs."""
    world = started()
    first, second = world.pods_of(world.job(MASKS))
    world.run(first)
    world.remove_pod(second)
    world.events["Job", world.job(MASKS)["metadata"]["name"]] = ["Error creating: exceeded quota"]
    world.reconcile()
    assert "1 of 2 pods holds 1 GPU" in world.teacher().message
    released(world)
    assert world.job(MASKS)["spec"]["suspend"]


def test_an_image_that_cannot_be_pulled_on_one_node_does_not_hold_the_gpus_of_the_others() -> None:
    world = started()
    first, second = world.pods_of(world.job(MASKS))
    world.run(first)
    world.run(second)
    second["status"]["phase"] = "Pending"
    world.waits(second, reason="ImagePullBackOff", message="no such host")
    world.reconcile()
    assert "2 of 2 pods hold 2 GPUs" in world.teacher().message
    assert world.job(released(world) and MASKS)["spec"]["suspend"]


def test_of_pods_that_trained_together_the_wait_begins_when_one_is_lost() -> None:
    world = started()
    for pod in live(world):
        world.run(pod)
    world.reconcile()
    world.advance(7200)
    first, second = live(world)
    world.end(second, 137, conditions=[{"type": "DisruptionTarget", "status": "True", "reason": "Preemption"}])
    world.controllers()
    world.reconcile()
    assert not world.job(MASKS)["spec"]["suspend"]
    world.advance(TIMEOUT - 10)
    world.reconcile()
    assert not world.job(MASKS)["spec"]["suspend"]
    released(world)
    assert world.job(MASKS)["spec"]["suspend"]
    assert first["status"]["phase"] == "Failed"


# With what else may be said of a run.


def test_the_deadline_for_starting_counts_over_all_rounds() -> None:
    world = half_started(pendingDeadlineSeconds=int(4 * TIMEOUT))
    begun = world.now
    released(world)
    assert world.state == ("Unknown", "Pending")
    world.now = begun + 4 * TIMEOUT - 10
    world.reconcile()
    assert not world.terminal
    world.advance(20)
    world.reconcile()
    assert world.state == ("False", "NotStartedInTime")
    settle(world)
    assert not world.has_job(MASKS)


def test_a_paused_run_that_is_suspended_stays_so_and_then_waits_for_the_rest_of_its_pause() -> None:
    world = released(half_started())
    world.edit(suspend=True)
    world.reconcile()
    assert world.state[1] == "Suspended"
    world.now = resume_time(world) + 10
    world.reconcile()
    assert world.job(MASKS)["spec"]["suspend"]
    world.edit(suspend=False)
    world.reconcile()
    assert not world.job(MASKS)["spec"]["suspend"]


def test_a_paused_run_with_a_changed_placement_is_replaced_immediately() -> None:
    world = released(half_started())
    world.edit(nodeSelector={"gpu": "h100"})
    world.reconcile()
    settle(world)
    world.reconcile()
    assert not world.job(MASKS)["spec"]["suspend"]
    assert GANG not in world.job(MASKS)["metadata"]["annotations"]


def test_the_timeout_of_the_object_overrides_that_of_the_installation_and_changes_no_job() -> None:
    world = half_started(gangTimeoutSeconds=600)
    uid = world.job(MASKS)["metadata"]["uid"]
    world.advance(TIMEOUT * 1.5 + 1)
    world.reconcile()
    assert not world.job(MASKS)["spec"]["suspend"]
    world.edit(gangTimeoutSeconds=30)
    world.reconcile()
    assert world.job(MASKS)["spec"]["suspend"]
    assert world.job(MASKS)["metadata"]["uid"] == uid


def test_a_job_resumed_by_somebody_in_its_pause_is_not_changed() -> None:
    world = released(half_started())
    world.job(MASKS)["spec"]["suspend"] = False
    world._touch("Job", world.job(MASKS))
    world.controllers()
    for pod in live(world):
        world.run(pod)
    world.reconcile()
    assert world.teacher().state == "Training"


@pytest.mark.parametrize("broken", ["", "x", "{}", '{"count": -1}', '{"count": 1, "again": "soon"}', "[1]"])
def test_an_invalid_gang_annotation_is_ignored(broken: str) -> None:
    world = released(half_started())
    world.job(MASKS)["metadata"]["annotations"][GANG] = broken
    world._touch("Job", world.job(MASKS))
    world.reconcile()
    assert not world.job(MASKS)["spec"]["suspend"], "it is ours, so it goes on"
    assert SUSPENDED not in world.job(MASKS)["metadata"]["annotations"]
    world.run_fairly()
    assert world.state == ("True", "Succeeded")


def test_an_operator_without_a_status_resumes_the_rounds_of_the_job() -> None:
    world = released(half_started())
    again = resume_time(world)
    world.body["status"]["teachers"][0].pop("releases")
    world.reconcile()
    assert (resume_time(world), world.teacher().releases) == (again, 1)


# Accounts.


def test_gpus_that_are_held_count_though_not_all_pods_ever_ran() -> None:
    """Of the second pod only, which is no attempt."""
    world = started(gpus=4)
    first, second = world.pods_of(world.job(MASKS))
    world.waits(first, conditions=unschedulable())
    world.run(second)
    world.reconcile()
    world.advance(100)
    world.reconcile()
    assert world.teacher().gpu_seconds == 4 * 100
    assert world.teacher().attempts == []


def test_gpus_count_from_when_a_pod_is_bound_to_its_node() -> None:
    world = started(nodes=1, gpus=2)
    (pod,) = world.pods_of(world.job(MASKS))
    pod["spec"]["nodeName"] = "node-a"
    bound = {"type": "PodScheduled", "status": "True", "lastTransitionTime": timestamp(world.now)}
    world.waits(pod, conditions=[bound], reason="ContainerCreating")
    world.advance(50)
    world.reconcile()
    assert world.teacher().gpu_seconds == 2 * 50
    world.run(pod, node="node-a")
    pod["status"]["conditions"] = [bound]
    world._touch("Pod", pod)
    world.advance(100)
    world.reconcile()
    assert world.teacher().gpu_seconds == 2 * 150
    assert [one.gpu_seconds for one in world.teacher().attempts] == [2 * 150]


def test_each_round_counts_its_gpu_seconds() -> None:
    world = half_started(gpus=4)
    begun = world.now
    world.advance(2 * TIMEOUT)
    world.reconcile()
    world.controllers()
    world.advance(20)
    world.end(live(world)[0], 143)
    world.reconcile()
    settle(world)
    held = world.now - begun
    assert world.teacher().gpu_seconds == 4 * held
    world.now = resume_time(world)
    world.reconcile()
    assert world.teacher().gpu_seconds == 4 * held, "nothing is held in the pause"


def test_a_status_of_the_version_before_is_continued() -> None:
    world = World(teachers=[MASKS], gpus=4)
    world.training()
    begun = world.now
    world.advance(100)
    world.reconcile()
    (teacher,) = world.body["status"]["teachers"]
    assert teacher.pop("gpuSecondsUntil") == timestamp(begun + 100)
    world.advance(50)
    world.reconcile()
    assert world.teacher().gpu_seconds == 4 * 150
    attempt = world.teacher().attempts[0]
    assert isinstance(attempt, AttemptStatus)
    assert attempt.gpu_seconds == 4 * 150


# Several runs.


class Pool:
    """Runs that share a few GPUs, and a scheduler that binds whichever pod comes first.

    Args:
        runs: How many.
        gpus: Free at the beginning; each pod needs one.
        seed: In what order the scheduler sees pods.
    """

    def __init__(self, runs: int, *, gpus: int, nodes: int = 2, seed: int = 0) -> None:
        self.worlds = [started(nodes=nodes, first_uid=10_000 * (n + 1)) for n in range(runs)]
        self.gpus, self.order = gpus, random.Random(seed)
        self.training: dict[int, float] = {}
        self.now = self.worlds[0].now

    def held(self) -> int:
        return sum(bool(pod["spec"].get("nodeName")) for world in self.worlds for pod in live(world))

    def waiting(self) -> Iterator[tuple[World, dict[str, Any]]]:
        pods = [(world, pod) for world in self.worlds for pod in live(world)]
        pending = [(world, pod) for world, pod in pods if is_live(pod) and not pod["spec"].get("nodeName")]
        self.order.shuffle(pending)
        return iter(pending)

    def schedule(self) -> None:
        for world, pod in self.waiting():
            if self.held() < self.gpus:
                world.run(pod)
            else:
                world.waits(pod, conditions=unschedulable())

    def pass_by(self) -> None:
        """To the next moment at which something is to happen."""
        dues = []
        for at, world in enumerate(self.worlds):
            if world.terminal:
                continue
            again = world.reconcile().actions.requeue_at
            settle(world)
            dues += [again] if again is not None else []
            if world.teacher().state == "Training":
                dues.append(self.training.setdefault(at, self.now + 3600))
                if self.now >= self.training[at]:
                    for pod in live(world):
                        world.succeed(pod)
                    settle(world)
        self.schedule()
        for world in self.worlds:
            if not world.terminal:
                world.reconcile()
        self.now = max(self.now + 5, min(dues, default=0.0))
        for world in self.worlds:
            world.now = self.now

    def run(self, *, hours: float) -> None:
        end = self.now + hours * 3600
        while not all(world.terminal for world in self.worlds):
            assert self.now < end, [world.summary for world in self.worlds]
            assert self.held() <= self.gpus
            self.pass_by()


@pytest.mark.parametrize(("runs", "nodes", "gpus"), [(2, 2, 2), (2, 2, 3), (3, 2, 2), (3, 3, 4), (4, 2, 2)])
def test_runs_that_deadlock_on_gpus_finish_in_the_end(runs: int, nodes: int, gpus: int) -> None:
    pool = Pool(runs, gpus=gpus, nodes=nodes)
    pool.run(hours=2 * runs)
    assert [world.state for world in pool.worlds] == [("True", "Succeeded")] * runs
    assert pool.held() == 0


def test_two_runs_that_wait_for_each_other_lose_no_more_than_the_timeout() -> None:
    """The one that gives way frees what the other needs, which holds on for longer."""
    pool = Pool(2, gpus=2)
    for world in pool.worlds:  # one pod of each
        world.run(world.pods_of(world.job(MASKS))[0])
        world.reconcile()
    begun = pool.now
    while not pool.training:
        pool.pass_by()
    assert pool.now - begun <= 1.5 * TIMEOUT + 60


def test_two_teachers_of_a_run_take_part_one_after_the_other() -> None:
    world = World(teachers=[BOXES, MASKS], nodes=2, gpus=1)
    world.inspected()
    world.controllers()
    first, second = world.pods_of(world.job(BOXES))
    world.run(first)
    world.waits(second, conditions=unschedulable())
    world.reconcile()
    world.advance(2 * TIMEOUT)
    world.reconcile()
    settle(world)
    assert world.job(BOXES)["spec"]["suspend"]
    assert [one.releases for one in world.status.teachers] == [1, 0]
    world.now = seconds(gang_release.Rounds.of(world.job(BOXES)).again) or 0.0
    world.run_fairly()
    assert world.state == ("True", "Succeeded")

"""Runs that people change, stop, delete and break while they are under way or done."""

from __future__ import annotations

import asyncio
from typing import Any

import outcomes
import pytest
from health import argo_cd, kstatus
from loops import nonempty
from places import NewWorld
from world import Body, World, condition

from engine.spec import TeacherName

pytestmark = pytest.mark.asyncio

DINO = TeacherName.GROUNDING_DINO


async def _training(world: World, run: str, **spec: Any) -> tuple[Body, Body]:
    """A run that trains; the Job and its pod."""
    await world.create(run, **spec)
    await world.inspects(run)
    pod = await world.starts(run)
    await world.teacher_reaches(run, "Training")
    return await world.job(run, "grounding-dino"), pod


async def _uid(world: World, run: str, part: str = "grounding-dino") -> str:
    return str((await world.job(run, part))["metadata"]["uid"])


async def test_a_limit_is_changed_in_place(world: World) -> None:
    run = "in-place"
    job, _ = await _training(world, run, backoffLimit=1)
    await world.edit(run, backoffLimit=5, activeDeadlineSeconds=86_400)

    async def changed() -> bool:
        now = await world.job(run, "grounding-dino")
        return bool(now["spec"]["backoffLimit"] == 5 and now["spec"].get("activeDeadlineSeconds") == 86_400)

    await world.until(changed, "the Job has the new limits")
    await world.edit(run, activeDeadlineSeconds=None)

    async def unlimited() -> bool:
        return "activeDeadlineSeconds" not in (await world.job(run, "grounding-dino"))["spec"]

    await world.until(unlimited, "the deadline is taken away")
    assert await _uid(world, run) == job["metadata"]["uid"]
    assert (await world.run(run))["metadata"]["generation"] == 3

    async def observed() -> bool:
        return (await world.status(run))["observedGeneration"] == 3

    await world.until(observed, "the status is that of the last edit")


async def test_other_settings_are_taken_on_by_a_new_job_that_resumes(world: World) -> None:
    run = "bigger"
    job, pod = await _training(world, run)
    more = {"requests": {"memory": "48Gi"}, "limits": {"memory": "64Gi"}}
    await world.edit(run, resources=more, nodeSelector={"pool": "a100"})
    await world.told_to_stop(pod)
    await world.reaches(run, "Pending")
    await world.stops(pod)
    new = await world.job(run, "grounding-dino", other_than=job["metadata"]["uid"])
    spec = new["spec"]["template"]["spec"]
    assert spec["containers"][0]["resources"]["limits"] == {"memory": "64Gi", "nvidia.com/gpu": "1"}
    assert spec["nodeSelector"] == {"pool": "a100"}
    await world.trains(run)
    status = await world.reaches(run, "Succeeded")
    assert status["teachers"][0]["attemptCount"] == 2


async def test_a_run_is_suspended_and_resumed(world: World) -> None:
    run = "pause"
    job, pod = await _training(world, run, backoffLimit=0)
    await world.edit(run, suspend=True)
    await world.told_to_stop(pod)
    await world.stops(pod)
    status = await world.reaches(run, "Suspended")
    assert condition(status, "Succeeded")["status"] == "Unknown"
    assert condition(status, "Reconciling")["status"] == "False"
    assert condition(status, "Stalled")["status"] == "False"
    assert argo_cd(await world.run(run)) == "Suspended"
    await world.remains(lambda: _has_live_pods(world, run, 0), "no pod runs")
    await world.edit(run, suspend=False)
    await world.trains(run)
    status = await world.reaches(run, "Succeeded")
    assert await _uid(world, run) == job["metadata"]["uid"]
    assert status["teachers"][0]["attemptCount"] == 2
    assert "failure" not in status["teachers"][0]


async def _has_live_pods(world: World, run: str, count: int) -> bool:
    return sum(pod["status"].get("phase") in ("Pending", "Running") for pod in await world.pods(run)) == count


@pytest.mark.lengthy
async def test_a_run_that_is_made_suspended_does_nothing_until_it_may(world: World) -> None:
    run = "later"
    await world.create(run, suspend=True)
    await world.reaches(run, "Suspended")
    await world.remains(lambda: _has_no_jobs(world, run), "there are no Jobs", seconds=1)
    await world.edit(run, suspend=False)
    await world.inspects(run)
    await world.trains(run)
    await world.reaches(run, "Succeeded")


async def _has_no_jobs(world: World, run: str) -> bool:
    return not await world.jobs(run)


@pytest.mark.lengthy
async def test_a_run_is_suspended_while_its_data_is_inspected(world: World) -> None:
    run = "pause-early"
    await world.create(run)
    pod = await world.pod(run, "inspect")
    await world.runs(pod)
    await world.edit(run, suspend=True)
    await world.told_to_stop(pod)
    await world.stops(pod)
    await world.reaches(run, "Suspended")
    await world.edit(run, suspend=False)
    await world.inspects(run)
    await world.trains(run)
    await world.reaches(run, "Succeeded")


@pytest.mark.lengthy
async def test_a_queued_run_is_suspended_by_taking_its_job_away(world: World) -> None:
    """Whether a queued Job runs is Kueue's to say."""
    run = "pause-queued"
    await world.create(run, queueName="team-queue")
    await world.inspects(run)
    await world.reaches(run, "Queued")
    first = await _uid(world, run)
    await world.patch("jobs", f"{run}-grounding-dino", {"spec": {"suspend": False}})
    pod = await world.starts(run)
    await world.reaches(run, "Training")
    await world.edit(run, suspend=True)
    await world.told_to_stop(pod)
    await world.stops(pod)
    await world.gone("jobs", f"{run}-grounding-dino")
    await world.reaches(run, "Suspended")
    await world.edit(run, suspend=False)
    job = await world.job(run, "grounding-dino", other_than=first)
    assert job["spec"]["suspend"], "it is queued anew"
    await world.patch("jobs", f"{run}-grounding-dino", {"spec": {"suspend": False}})
    await world.trains(run)
    await world.reaches(run, "Succeeded")


async def test_nothing_is_left_of_a_run_that_is_deleted_while_it_trains(world: World) -> None:
    run = "deleted"
    _, pod = await _training(world, run)
    await world.delete("teacherfinetunes", run)
    await world.gone("teacherfinetunes", run)
    await world.told_to_stop(pod)
    await world.stops(pod)
    for plural, name in (
        ("jobs", f"{run}-inspect"),
        ("jobs", f"{run}-grounding-dino"),
        ("configmaps", f"{run}-request"),
    ):
        await world.gone(plural, name)

    async def nothing() -> bool:
        return not await world.pods(run) and not await world.jobs(run)

    await world.until(nothing, "there is nothing left")
    await world.remains(nothing, "nothing comes back", seconds=1)


@pytest.mark.lengthy
async def test_a_run_is_made_anew_while_the_pods_of_the_former_still_stop(world: World) -> None:
    run = "anew"
    old, pod = await _training(world, run)
    await world.delete("teacherfinetunes", run, propagationPolicy="Background")
    await world.gone("teacherfinetunes", run)
    await world.create(run, output="s3://other-models/")
    await world.told_to_stop(pod)
    await world.job(run, "inspect")
    await world.stops(pod)
    inspect = await world.job(run, "inspect")
    assert inspect["metadata"]["ownerReferences"][0]["uid"] == (await world.run(run))["metadata"]["uid"]
    await world.inspects(run)
    await world.job(run, "grounding-dino", other_than=old["metadata"]["uid"])
    await world.trains(run)
    status = await world.reaches(run, "Succeeded")
    assert status["teachers"][0]["attemptCount"] == 1, "that of the former run is not its own"


@pytest.mark.parametrize("how", ["Background", "Foreground"])
async def test_a_job_that_is_deleted_by_hand_is_made_again(world: World, how: str) -> None:
    run = f"by-hand-{how.lower()}"
    job, pod = await _training(world, run)
    await world.delete("jobs", f"{run}-grounding-dino", propagationPolicy=how)
    await world.told_to_stop(pod)
    await world.reaches(run, "Pending", saying="is being stopped")

    async def alone() -> bool:
        found = await world.find("jobs", f"{run}-grounding-dino")
        return found is None or found["metadata"]["uid"] == job["metadata"]["uid"]

    await world.remains(alone, "no other Job is made while its pod has not ended")
    await world.stops(pod)
    await world.job(run, "grounding-dino", other_than=job["metadata"]["uid"])
    await world.trains(run)
    status = await world.reaches(run, "Succeeded")
    assert status["teachers"][0]["attemptCount"] == 2


@pytest.mark.lengthy
async def test_an_inspection_that_is_deleted_by_hand_is_made_again(world: World) -> None:
    run = "inspect-by-hand"
    await world.create(run)
    first = await world.pod(run, "inspect")
    job = await _uid(world, run, "inspect")
    await world.delete("jobs", f"{run}-inspect", propagationPolicy="Background")
    await world.job(run, "inspect", other_than=job)
    await world.told_to_stop(first)
    await world.inspects(run)
    await world.trains(run)
    await world.reaches(run, "Succeeded")


@pytest.mark.lengthy
async def test_what_is_done_is_never_done_again(new_world: NewWorld) -> None:
    """Not when its Jobs are deleted, nor when the object is touched, nor when the operator starts anew."""
    world = await new_world()
    for run in ("done", "broken"):
        await world.create(run)
        await world.inspects(run)
        pod = await world.starts(run)
        if run == "done":
            await world.succeeds(pod, outcomes.trained(run, DINO))
            await world.reaches(run, "Succeeded")
        else:
            await world.fails(pod, 41, message=outcomes.failure(41, "broken data"))
            await world.reaches(run, "DataInvalid")
        for job in await world.jobs(run):
            await world.delete("jobs", job["metadata"]["name"], propagationPolicy="Background")
            await world.gone("jobs", job["metadata"]["name"])
    before = {run: await world.status(run) for run in ("done", "broken")}
    for run in before:
        await world.edit(run, backoffLimit=7, suspend=True)
    await world.operator.stop()
    await world.operator.start()

    async def same() -> bool:
        for run, then in nonempty(before.items()):
            status, body = await world.status(run), await world.run(run)
            if await world.jobs(run) or status["completionTime"] != then["completionTime"]:
                return False
            if [one["status"] for one in status["conditions"]] != [one["status"] for one in then["conditions"]]:
                return False
            if (await world.teacher(run))["state"] not in ("Succeeded", "Failed"):
                return False
            assert kstatus(body) in {"InProgress", "Current" if run == "done" else "Failed"}
        return True

    await world.remains(same, "nothing happens")

    async def seen() -> bool:
        bodies = [await world.run(run) for run in before]
        return [kstatus(body) for body in bodies] == ["Current", "Failed"]

    await world.until(seen, "the new generations are looked at")


@pytest.mark.lengthy
async def test_jobs_of_a_run_that_is_done_go_when_they_may(world: World) -> None:
    run = "ttl"
    await world.create(run, ttlSecondsAfterFinished=1)
    await world.inspects(run)
    await world.trains(run)
    status = await world.reaches(run, "Succeeded")
    await world.gone("jobs", f"{run}-grounding-dino")
    await world.gone("jobs", f"{run}-inspect")
    await world.remains(lambda: _has_no_jobs(world, run), "nothing runs again")
    assert await world.status(run) == status


@pytest.mark.lengthy
@pytest.mark.parametrize("part", ["inspect", "grounding-dino"])
async def test_what_was_lost_with_its_pod_is_requested_again(
    new_world: NewWorld, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pod is gone before anyone has read what it left; in memory, its Job too before any watch is open."""
    monkeypatch.setattr("teacher_operator.runtime.controller.SETTLE_SECONDS", 0.3)
    world, run = await new_world(), "unread"
    await world.create(run)
    if part != "inspect":
        await world.inspects(run)
    pod = await world.pod(run, part)
    await world.runs(pod)
    job = await _uid(world, run, part)
    await world.operator.stop()
    await world.succeeds(pod, outcomes.prepared(run) if part == "inspect" else outcomes.trained(run, DINO))

    async def complete() -> bool:
        conditions = (await world.job(run, part))["status"].get("conditions") or []
        return any(one["type"] == "Complete" for one in conditions)

    await world.until(complete, "the Job is complete")
    await world.vanishes(pod)
    await world.operator.start()
    await world.job(run, part, other_than=job)
    if part == "inspect":
        await world.inspects(run)
    await world.trains(run)
    await world.reaches(run, "Succeeded")


@pytest.mark.lengthy
async def test_a_status_that_was_wiped_is_found_again(world: World) -> None:
    run = "wiped"
    await _training(world, run)
    before = {job["metadata"]["uid"] for job in await world.jobs(run)}
    await world.patch("teacherfinetunes", run, {"status": None}, "status")
    status = await world.reaches(run, "Training")
    assert status["runId"] == outcomes.RUN_ID
    assert {job["metadata"]["uid"] for job in await world.jobs(run)} == before


@pytest.mark.lengthy
async def test_many_changes_at_once_come_to_rest(world: World) -> None:
    run = "restless"
    await _training(world, run)
    for number in range(6):
        await world.edit(run, backoffLimit=number, suspend=number % 2 == 1)
        await asyncio.sleep(0.05)
    pods = [pod for pod in await world.pods(run) if "deletionTimestamp" in pod["metadata"]]
    for pod in pods:
        await world.stops(pod)

    async def settled() -> bool:
        job = await world.job(run, "grounding-dino")
        return bool(job["spec"]["suspend"] and job["spec"]["backoffLimit"] == 5)

    await world.until(settled, "the Job is as the object says")
    for pod in await world.pods(run):
        if "deletionTimestamp" in pod["metadata"]:
            await world.stops(pod)
    await world.reaches(run, "Suspended")


async def test_a_job_that_is_made_anew_has_what_is_left_of_the_deadline(world: World) -> None:
    """What earlier Jobs took stands in the status: here as if they had run for 500 seconds."""
    run = "counted"
    await world.create(run, activeDeadlineSeconds=600)
    await world.inspects(run)
    pod = await world.starts(run)
    await world.teacher_reaches(run, "Training")
    first = await world.job(run, "grounding-dino")
    assert first["spec"]["activeDeadlineSeconds"] == 600
    teacher = await world.teacher(run)
    assert teacher["activeSince"] == first["status"]["startTime"]
    teachers = [{**teacher, "activeSeconds": 500}]
    await world.patch("teacherfinetunes", run, {"status": {"teachers": teachers}}, sub="status")
    await world.edit(run, gpus=2)
    await world.told_to_stop(pod)
    await world.stops(pod)
    second = await world.job(run, "grounding-dino", other_than=first["metadata"]["uid"])
    assert 0 < second["spec"]["activeDeadlineSeconds"] <= 100
    pod = await world.starts(run)
    await world.teacher_reaches(run, "Training")
    await world.edit(run, suspend=True)
    await world.told_to_stop(pod)
    await world.stops(pod)

    async def stopped() -> bool:
        return "activeSince" not in await world.teacher(run)

    await world.until(stopped, "its time stands still")
    await world.edit(run, suspend=False, activeDeadlineSeconds=400)
    await world.reaches(run, "DeadlineExceeded", saying="activeDeadlineSeconds = 400, over all of its Jobs")

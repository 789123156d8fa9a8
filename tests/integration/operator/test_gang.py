"""Runs over several nodes that each hold a part of the GPUs that all of them need."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from places import NewWorld
from scheduler import Scheduler
from world import Body, World, condition

from teacher_operator.api.names import COMPONENT, TRAINER

pytestmark = pytest.mark.asyncio


@contextlib.asynccontextmanager
async def few_gpus(world: World, *, gpus: int, nodes: int) -> AsyncIterator[Scheduler]:
    scheduler = Scheduler(world, gpus=gpus, nodes=nodes)
    work = asyncio.create_task(scheduler.work())
    try:
        yield scheduler
    finally:
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work


async def contend(world: World, runs: list[str], *, nodes: int) -> None:
    """Runs all of whose trainers' pods wait: a scheduler that sees those of one run alone would let it train."""
    for run in runs:
        await world.create(run, nodes=nodes, gpus=1, backoffLimit=0)
    for run in runs:
        await world.inspects(run)

    async def waiting() -> bool:
        pods = await world.all("pods")
        return sum(pod["metadata"]["labels"].get(COMPONENT) == TRAINER for pod in pods) == nodes * len(runs)

    await world.until(waiting, "every run has all of its pods")


async def waits_in_part(world: World, runs: list[str]) -> Body:
    """The status of a run that says which GPUs it holds in vain."""

    async def there() -> Body | None:
        for run in runs:
            status = await world.status(run)
            message = condition(status, "Succeeded").get("message", "")
            if "of 2 pods holds 1 GPU on node" in message and "released at 2" in message:
                return status
        return None

    return await world.until(there, "a run says which GPUs it holds") or {}


async def test_two_runs_that_wait_for_each_other_both_finish(new_world: NewWorld) -> None:
    world = await new_world(gang_timeout_seconds=2)
    runs = ["left", "right"]
    await contend(world, runs, nodes=2)
    async with few_gpus(world, gpus=2, nodes=2) as scheduler:
        await waits_in_part(world, runs)
        for run in runs:
            status = await world.reaches(run, "Succeeded", seconds=120)
            assert status["gpuSeconds"] >= 0
    assert scheduler.partial == set(runs)
    assert scheduler.most_held <= 2
    told = [event for run in runs for event in await world.events(run) if event["reason"] == "GpusReleased"]
    assert told
    assert all(event["type"] == "Warning" for event in told)


@pytest.mark.lengthy
async def test_any_number_of_runs_finishes(new_world: NewWorld) -> None:
    world = await new_world(gang_timeout_seconds=1)
    runs = [f"run-{number}" for number in range(4)]
    await contend(world, runs, nodes=2)
    async with few_gpus(world, gpus=3, nodes=2) as scheduler:
        for run in runs:
            await world.reaches(run, "Succeeded", seconds=60)
    assert scheduler.most_held <= 3


async def test_an_operator_that_is_killed_in_a_pause_resumes_it(new_world: NewWorld) -> None:
    world = await new_world(gang_timeout_seconds=3)
    run = "one"
    await contend(world, [run], nodes=2)
    async with few_gpus(world, gpus=1, nodes=2) as scheduler:
        await world.reaches(run, "Pending", saying="released them (round 1)")
        await world.operator.kill()
        job = await world.find("jobs", f"{run}-grounding-dino") or {}
        assert job["spec"]["suspend"] is True
        assert not (job.get("status") or {}).get("failed")
        scheduler.gpus, scheduler.trainers_end = 2, False  # until the operator has seen that all run
        await world.operator.start()
        await world.reaches(run, "Training", seconds=60)
        scheduler.trainers_end = True
        await world.reaches(run, "Succeeded", seconds=60)
    after = await world.find("jobs", f"{run}-grounding-dino") or {}
    assert after["metadata"]["uid"] == job["metadata"]["uid"]
    assert "finetune.dev/gang" not in after["metadata"]["annotations"]


async def test_what_kueue_queues_is_never_taken_away(new_world: NewWorld) -> None:
    world = await new_world(gang_timeout_seconds=1)
    run = "queued"
    await world.create(run, nodes=2, gpus=1, queueName="team")
    await world.inspects(run)
    await world.job(run, "grounding-dino")
    await world.patch("jobs", f"{run}-grounding-dino", {"spec": {"suspend": False}})
    async with few_gpus(world, gpus=1, nodes=2):
        await world.reaches(run, "Pending", saying="no node has a free")

        async def runs_on() -> bool:
            job = await world.find("jobs", f"{run}-grounding-dino") or {}
            return not job["spec"]["suspend"]

        await world.remains(runs_on, "its Job is not suspended", seconds=3)

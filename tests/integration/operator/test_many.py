"""Two hundred objects at once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import aiohttp
import kmock
import outcomes
import pytest
from places import NewWorld
from world import MINE, Body, World, condition

from engine.spec import TeacherName

pytestmark = pytest.mark.asyncio

MANY = 200
WRITES_MAX = 18
"""Of the operator for one run: three children, a status now and then, and what it tells in events."""
EVENTS_MAX = 6


async def _kubelets(world: World, stop: asyncio.Event) -> None:
    """Run every pod that there is, well and soon."""
    begun: set[str] = set()
    gate = asyncio.Semaphore(16)

    async def run(pod: Body) -> None:
        async with gate:
            labels = pod["metadata"]["labels"]
            name, inspects = labels["finetune.dev/run"], labels["finetune.dev/component"] == "inspect"
            await world.runs(pod)
            message = outcomes.prepared(name) if inspects else outcomes.trained(name, TeacherName.GROUNDING_DINO)
            await world.succeeds(pod, message)

    async with asyncio.TaskGroup() as group:
        while not stop.is_set():
            for pod in await world.all("pods", fieldSelector="status.phase=Pending"):
                if pod["metadata"]["name"] not in begun:
                    begun.add(pod["metadata"]["name"])
                    group.create_task(run(pod))
            await asyncio.sleep(0.2)


@pytest.mark.slow
@pytest.mark.lengthy
async def test_two_hundred_runs_at_once(new_world: NewWorld) -> None:
    world = await new_world(progress_seconds=15)
    stop = asyncio.Event()
    fleet = asyncio.create_task(_kubelets(world, stop))
    runs, begun = [f"many-{number:03}" for number in range(MANY)], time.monotonic()
    gate = asyncio.Semaphore(16)

    async def create(run: str) -> None:
        async with gate:
            await world.create(run)

    await asyncio.gather(*(create(run) for run in runs))

    async def all_done() -> bool:
        if fleet.done():
            fleet.result()
        bodies = await world.all("teacherfinetunes")
        reasons = Counter(condition(body.get("status") or {}, "Succeeded").get("reason") for body in bodies)
        assert set(reasons) <= {None, "Inspecting", "Pending", "Starting", "Training", "Succeeded"}, reasons
        await asyncio.sleep(0.7)
        return reasons["Succeeded"] == MANY

    await world.until(all_done, "all are done", seconds=240)
    print(f"{MANY} runs in {time.monotonic() - begun:.1f} s")
    stop.set()
    await fleet
    jobs, pods = await world.all("jobs"), await world.all("pods")
    assert len(jobs) == len(pods) == 2 * MANY, "nothing was made in vain"
    await asyncio.sleep(1)
    told = Counter(event["involvedObject"]["name"] for event in await world.all("events", fieldSelector=_OURS))
    assert max(told.values()) <= EVENTS_MAX, told.most_common(3)
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{world.operator.port}/metrics") as answer:
            metrics = await answer.text()
        async with session.get(f"http://127.0.0.1:{world.operator.port}/healthz") as answer:
            assert answer.status == 200, await answer.text()
    assert f'teacher_runs{{run_namespace="{world.namespace}",state="Succeeded"}} {MANY}.0' in metrics
    assert "teacher_queue_depth 0.0" in metrics
    if world.memory is not None:
        mark, value = next(iter(MINE.items()))
        theirs = [one for one in world.memory if one.headers.get(mark) != value]
        writes = sum(one.method is not kmock.method.GET for one in theirs)
        assert writes <= WRITES_MAX * MANY, f"{writes / MANY} writes a run"
        print(f"{writes / MANY:.1f} writes and {(len(theirs) - writes) / MANY:.1f} reads a run")


_OURS = "involvedObject.kind=TeacherFineTune"

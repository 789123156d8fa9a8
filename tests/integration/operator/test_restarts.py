"""The operator ends at every moment, and starts again: nothing is done twice, nothing is forgotten."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import kmock
import outcomes
import pytest
from places import OPERATOR, NewWorld
from world import MINE, World, condition, part_of

from engine.spec import TeacherName
from engine.stages import INSPECTION
from teacher_operator.api.settings import Settings
from teacher_operator.api.spec import parse_spec
from teacher_operator.decide import jobs

pytestmark = pytest.mark.asyncio

DINO, SAM = TeacherName.GROUNDING_DINO, TeacherName.SAM


async def _play(world: World, run: str, between: Callable[[str], Awaitable[None]]) -> None:
    """A run of both teachers, one of which is stopped once; something happens after every step of it."""
    await world.create(run)
    await between("the object is there")
    await world.job(run, "inspect")
    await between("inspection is made")
    pod = await world.pod(run, "inspect")
    await world.runs(pod)
    await between("the data is being inspected")
    await world.succeeds(pod, outcomes.prepared(run, outcomes.BOTH))
    await between("inspection is done")
    await world.job(run, part_of(DINO))
    await between("the first trainer is made")
    pod = await world.pod(run, part_of(DINO))
    await world.schedule(pod)
    await between("it has a node")
    await world.runs(pod)
    await world.says(pod, outcomes.step(10))
    await between("it runs")
    await world.succeeds(pod, outcomes.trained(run, DINO))
    await between("one teacher is done")
    await world.job(run, part_of(SAM))
    await between("the second trainer is made")
    pod = await world.pod(run, part_of(SAM))
    await world.runs(pod)
    await world.says(pod, outcomes.step(10))
    await between("it runs too")
    await world.disrupted(pod, "PreemptionByScheduler", "default-scheduler: preempting for a pod of more priority")
    await world.fails(pod, 143, message=outcomes.failure(143, "stopped by SIGTERM after a checkpoint"))
    await between("it is preempted")
    again = await world.pod(run, "sam", besides=[pod["metadata"]["name"]])
    await between("it is tried again")
    await world.runs(again)
    await world.succeeds(again, outcomes.trained(run, SAM))
    await between("both are done")
    status = await world.reaches(run, "Succeeded")
    assert [one["state"] for one in status["teachers"]] == ["Succeeded", "Succeeded"]
    assert [one["attemptCount"] for one in status["teachers"]] == [1, 2]
    jobs = await world.jobs(run)
    assert len(jobs) == 3
    assert all(job["metadata"]["generation"] <= 2 for job in jobs)
    assert len(await world.pods(run)) == 4, "no pod was made in vain"


@pytest.mark.lengthy
async def test_the_operator_is_killed_at_every_step(new_world: NewWorld) -> None:
    world, run = await new_world(), "killed"
    uids: dict[str, str] = {}

    async def kill(_: str) -> None:
        for job in await world.jobs(run):
            name, uid = job["metadata"]["name"], job["metadata"]["uid"]
            assert uids.setdefault(name, uid) == uid, f"{name} was made twice"
        await world.operator.kill()
        await world.operator.start()

    await _play(world, run, kill)
    for job in await world.jobs(run):
        assert uids[job["metadata"]["name"]] == job["metadata"]["uid"]


async def test_a_run_resumes_whatever_happened_while_no_operator_was_running(new_world: NewWorld) -> None:
    """Each step is seen for the first time by an operator that was not there when it was made."""
    world, run = await new_world(start=False), "unseen"
    await world.create(run)
    await world.operator.start()
    pod = await world.pod(run, "inspect")
    await world.operator.kill()
    await world.runs(pod)
    await world.succeeds(pod, outcomes.prepared(run, outcomes.MASKS))
    await world.operator.start()
    pod = await world.pod(run, "sam")
    await world.operator.kill()
    await world.runs(pod)
    await world.succeeds(pod, outcomes.trained(run, SAM))
    await world.edit(run, backoffLimit=9)
    await world.operator.start()
    status = await world.reaches(run, "Succeeded")

    async def seen() -> bool:
        return bool((await world.status(run))["observedGeneration"] == 2)

    await world.until(seen, "the edit is seen")
    assert status["teachers"][0]["adapter"]["uri"] == outcomes.adapter_uri(run, SAM)


@pytest.mark.memory_only  # requests to a real API server are not counted
@pytest.mark.parametrize("lost", ["request", "answer"])
@pytest.mark.parametrize("play", ["short", pytest.param("whole", marks=pytest.mark.slow)])
async def test_the_operator_is_killed_at_every_write(new_world: NewWorld, lost: str, play: str) -> None:
    """At its nth request that would change something: either that never arrives, or its answer never does."""
    world = await new_world()
    for number in itertools.count():
        if not await _dies_at(world, f"write-{number}", number, lost=lost, short=play == "short"):
            break
    assert number > (6 if play == "short" else 12), "a run takes more writes than that"


async def _play_short(world: World, run: str) -> None:
    """A run of one teacher that goes well."""
    await world.create(run)
    await world.inspects(run)
    await world.trains(run)
    await world.reaches(run, "Succeeded")
    assert len(await world.jobs(run)) == len(await world.pods(run)) == 2, "nothing was made in vain"


async def _dies_at(world: World, run: str, number: int, *, lost: str, short: bool) -> bool:
    """Play a run in which the operator dies once; False if it never came to so many writes."""
    assert world.memory is not None
    api, dead, count = world.memory, asyncio.Event(), itertools.count()
    mark, value = next(iter(MINE.items()))

    def strikes(request: kmock.Request) -> bool:
        theirs = request.headers.get(mark) != value
        if theirs and request.method is not kmock.method.GET and next(count) == number:
            dead.set()
        return theirs and dead.is_set()

    def refuse(request: kmock.Request) -> Exception | None:
        return kmock.KubernetesError(status=503, message="killed") if strikes(request) else None

    async def revive() -> None:
        await dead.wait()
        await world.operator.kill()
        dead.clear()
        await world.operator.start()

    async def nothing(_: str) -> None:
        return None

    reviving = asyncio.create_task(revive())
    if lost == "request":
        api.refuse = refuse
    else:
        api.lose = strikes
    playing = asyncio.create_task(_play_short(world, run) if short else _play(world, run, nothing))
    await asyncio.wait({playing, reviving}, return_when=asyncio.FIRST_COMPLETED)
    if reviving.done():
        reviving.result()  # an operator that has not started again says why
    await playing
    await asyncio.sleep(0.1)  # events come last
    struck = dead.is_set() or reviving.done() or next(count) > number
    api.lose = api.refuse = lambda _: None
    if struck:
        await reviving
    else:
        reviving.cancel()
    return struck


@pytest.mark.lengthy
async def test_of_two_operators_one_works_until_it_ends(
    new_world: NewWorld, tier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tier == "memory":
        monkeypatch.setattr("teacher_operator.runtime.lease.DURATION_SECONDS", 2)
        monkeypatch.setattr("teacher_operator.runtime.lease.RENEW_SECONDS", 0.4)
    election = {"leader_election": True, "lease_name": OPERATOR, "pod_namespace": OPERATOR}
    first = await new_world(pod_name="first", **election)
    second = await new_world(pod_name="second", namespaces=(first.namespace,), **election)

    async def led_by(name: str) -> bool:
        lease = await first.find("leases", OPERATOR, namespace=OPERATOR)
        return bool(lease and lease["spec"].get("holderIdentity") == name)

    await first.until(lambda: led_by("first"), "the first one leads")
    run = "led"
    await first.create(run)
    await first.inspects(run)
    pod = await first.starts(run)
    await first.reaches(run, "Training")
    await first.operator.kill()  # its Lease runs out
    await first.succeeds(pod, outcomes.trained(run, DINO))
    await first.until(lambda: led_by("second"), "the second one leads", seconds=60)
    await first.reaches(run, "Succeeded")
    await first.operator.start()
    await second.operator.stop()  # it gives the Lease back
    await first.until(lambda: led_by("first"), "the first one leads again", seconds=10)
    await first.create("led-again")
    await first.reaches("led-again", "Inspecting")


@pytest.mark.lengthy
async def test_two_operators_at_once_do_no_harm(new_world: NewWorld) -> None:
    """Nothing rests on there being one: leadership can be lost without knowing it."""
    first = await new_world()
    await new_world(namespaces=(first.namespace,), pod_name="second")
    run = "contested"

    async def nothing(_: str) -> None:
        await asyncio.sleep(0.05)

    await _play(first, run, nothing)
    status = await first.status(run)
    assert condition(status, "Succeeded")["status"] == "True"


async def test_a_job_that_another_failure_policy_ends_by_exit_code_2_loses_no_run(new_world: NewWorld) -> None:
    """Its FailJob rule has exit codes that a container runtime may use too."""
    run, world = "policy", await new_world(start=False)
    body = await world.create(run)
    settings = Settings(operator_image="registry.example/operator:0", trainer_image="registry.example/trainer:0")
    job = jobs.stage_job(body, parse_spec(body), settings, INSPECTION)
    rules = job["spec"]["podFailurePolicy"]["rules"]
    next(rule for rule in rules if rule["action"] == "FailJob")["onExitCodes"]["values"] = [2, 3, 7, 10]
    await world.api.call("POST", world.path("jobs"), job)
    lost = await world.job(run, "inspect")
    await world.operator.start()
    pod = await world.pod(run, "inspect")
    await world.runs(pod)
    await world.fails(pod, 2)
    await world.job(run, "inspect", other_than=lost["metadata"]["uid"])
    await world.inspects(run)
    await world.trains(run)
    status = await world.reaches(run, "Succeeded")
    assert status["stages"][0]["lostJobs"] == [lost["metadata"]["uid"]]

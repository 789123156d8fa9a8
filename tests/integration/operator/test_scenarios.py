"""Runs that go well, whatever their data, from their objects to their adapters."""

from __future__ import annotations

import asyncio

import outcomes
import pytest
from health import argo_cd, kstatus
from places import NewWorld
from world import World, condition, moment, part_of

from engine.spec import TeacherName

pytestmark = pytest.mark.asyncio

DINO, SAM = TeacherName.GROUNDING_DINO, TeacherName.SAM
EVENTS_MAX = 8
"""Of one run that goes well: each teacher tells that it trains and that it is done, the run a few things more."""


@pytest.mark.parametrize("run", ["boxes", "masks", "both"])
async def test_the_data_decides_what_is_trained(world: World, run: str) -> None:
    teachers = {"boxes": outcomes.BOXES, "masks": outcomes.MASKS, "both": outcomes.BOTH}[run]
    await world.create(run)
    await world.reaches(run, "Inspecting")
    await world.inspects(run, teachers)
    for teacher in teachers:
        await world.trains(run, teacher)
    status = await world.reaches(run, "Succeeded")

    assert [one["name"] for one in status["teachers"]] == [teacher.value for teacher in teachers]
    for one, teacher in zip(status["teachers"], teachers, strict=True):
        assert one["adapter"] == {
            "uri": outcomes.adapter_uri(run, teacher),
            "sha256": "a" * 64,
            "sizeBytes": 5_000_000,
            "strength": "1",
            "retention": "",
        }
        assert one["metrics"] == [{"name": "ap", "before": "0.250", "after": "0.500"}]
    assert status["uri"] == outcomes.folder(run)
    assert status["summary"]["teachers"] == ",".join(teacher.value for teacher in teachers)
    assert status["dataset"]["images"] == 100
    assert condition(status, "DatasetInspected")["status"] == "True"
    assert "missing_image 3x" in condition(status, "DatasetInspected")["message"]
    jobs = {job["metadata"]["name"] for job in await world.jobs(run)}
    assert jobs == {f"{run}-inspect", *(f"{run}-{part_of(teacher)}" for teacher in teachers)}
    uris = [outcomes.adapter_uri(run, teacher) for teacher in teachers]

    async def told() -> bool:
        texts = [event["message"] for event in await world.events(run) if event["reason"] == "Succeeded"]
        earlier = [f"{teacher}: AP 0.250 -> 0.500" for teacher in teachers[:-1]]
        each_once = len(texts) == len(teachers) and set(earlier) < set(texts)
        return each_once and any(all(uri in text for uri in uris) for text in texts)

    await world.until(told, "one event for each end: the last is that of the run")
    assert len(await world.events(run)) <= EVENTS_MAX


@pytest.mark.lengthy
async def test_a_run_is_current_only_when_it_is_done(world: World) -> None:
    """What Flux (kstatus) and Argo CD make of the conditions, at every step."""
    run = "kstatus"
    await world.create(run)
    seen = []

    async def look() -> None:
        body = await world.run(run)
        seen.append((kstatus(body), argo_cd(body)))
        assert condition(body.get("status") or {}, "Stalled").get("status", "False") == "False"

    pod = await world.pod(run, "inspect")
    await look()
    await world.runs(pod)
    await look()
    await world.succeeds(pod, outcomes.prepared(run))
    pod = await world.starts(run)
    await world.teacher_reaches(run, "Training")
    await look()
    assert set(seen) == {("InProgress", "Progressing")}
    await world.succeeds(pod, outcomes.trained(run, DINO))
    await world.reaches(run, "Succeeded")
    body = await world.run(run)
    assert (kstatus(body), argo_cd(body)) == ("Current", "Healthy")
    status = body["status"]
    assert {one["observedGeneration"] for one in status["conditions"]} == {status["observedGeneration"]} == {1}
    assert status["startTime"] <= status["completionTime"]


async def test_progress_is_reported_while_a_teacher_trains(world: World) -> None:
    run = "progress"
    await world.create(run)
    await world.inspects(run)
    pod = await world.starts(run)
    await world.says(pod, "loading the base model", outcomes.step(10))

    async def told(percent: int) -> bool:
        progress = (await world.teacher(run)).get("progress") or {}
        return bool(progress.get("percent") == percent)

    await world.until(lambda: told(10), "10%")
    await world.says(pod, "a line for people", outcomes.step(40, loss=0.25, best_ap=0.31), "{not json")
    await world.until(lambda: told(40), "40%")
    status = await world.status(run)
    progress = status["teachers"][0]["progress"]
    assert (progress["step"], progress["steps"], progress["loss"], progress["secondsLeft"]) == (40, 100, "0.25", 60)
    assert status["summary"]["progress"] == "40%"
    assert 0 < int(status["summary"]["timeLeft"].rstrip("s")) <= 60  # it counts down from the line on
    assert status["summary"]["map"] == "0.25 -> 0.31"
    assert status["summary"]["nodes"] == world.node
    await world.succeeds(pod, outcomes.trained(run, DINO))
    status = await world.reaches(run, "Succeeded")
    assert status["teachers"][0]["progress"]["percent"] == 100
    assert status["summary"]["timeLeft"] == ""
    assert len(await world.events(run)) <= EVENTS_MAX


@pytest.mark.parametrize(("classes", "problems"), [(150, 1), (2000, 12), (2000, 40)])
async def test_of_many_classes_the_problems_keep_their_messages(world: World, classes: int, problems: int) -> None:
    """And the status says where all of it is."""
    run = f"many-{classes}-{problems}"
    await world.create(run)
    pod = await world.pod(run, "inspect")
    await world.runs(pod)
    await world.succeeds(pod, outcomes.prepared(run, more_classes=classes - 2, more_problems=problems - 1))
    await world.job(run, "grounding-dino")
    data = (await world.status(run))["dataset"]
    assert data["problems"][0]["message"] == "3 images are not there."
    assert len(data["problems"]) + data["problemsLeftOut"] == problems
    assert all(len(one["message"]) >= 60 for one in data["problems"][1:])
    assert (data["classCount"], len(data["classes"]) + data["classesLeftOut"]) == (classes, classes)
    assert data["uri"] == f"{outcomes.folder(run)}/dataset.json"
    message = condition(await world.status(run), "DatasetInspected")["message"]
    assert message.endswith(f"{data['classesLeftOut']:,} classes only in {data['uri']}")


async def test_what_was_published_is_not_trained_again(world: World) -> None:
    run = "published"
    await world.create(run)
    pod = await world.pod(run, "inspect")
    await world.runs(pod)
    await world.succeeds(pod, outcomes.prepared(run, outcomes.BOTH, published=outcomes.BOTH))
    status = await world.reaches(run, "Succeeded")
    assert [one["metrics"][0]["after"] for one in status["teachers"]] == ["0.500", "0.500"]
    assert [job["metadata"]["name"] for job in await world.jobs(run)] == [f"{run}-inspect"]


@pytest.mark.lengthy
async def test_a_teacher_that_fails_takes_nothing_from_the_other(world: World) -> None:
    run = "half"
    await world.create(run)
    await world.inspects(run, outcomes.BOTH)
    pod = await world.starts(run, DINO)
    await world.fails(pod, 45, message=outcomes.failure(45, "the loss is nan at step 12"))
    await world.teacher_reaches(run, "Failed", DINO)
    assert kstatus(await world.run(run)) == "InProgress"
    await world.trains(run, SAM)
    status = await world.reaches(run, "LossNotFinite", saying="the loss is nan at step 12")
    assert status["teachers"][1]["adapter"]["uri"] == outcomes.adapter_uri(run, SAM)
    body = await world.run(run)
    assert (kstatus(body), argo_cd(body)) == ("Failed", "Degraded")


@pytest.mark.lengthy
async def test_several_nodes_find_each_other(world: World) -> None:
    run = "nodes"
    await world.create(run, nodes=2, gpus=8)
    await world.inspects(run)
    job = await world.job(run, "grounding-dino")
    assert (job["spec"]["completionMode"], job["spec"]["completions"], job["spec"]["parallelism"]) == ("Indexed", 2, 2)
    service = await world.find("services", f"{run}-grounding-dino")
    assert service is not None
    assert service["spec"]["clusterIP"] == "None"
    first = await world.pod(run, "grounding-dino")
    second = await world.pod(run, "grounding-dino", besides=[first["metadata"]["name"]])
    assert {pod["spec"]["subdomain"] for pod in (first, second)} == {job["metadata"]["name"]}
    await world.runs(first)
    await world.unschedulable(second, "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
    await world.reaches(run, "Pending", saying="no node has 8 free nvidia.com/gpu")
    await world.runs(second)
    await world.reaches(run, "Training")
    for pod in (second, first):
        await world.succeeds(pod, outcomes.trained(run, DINO))
    status = await world.reaches(run, "Succeeded")
    assert status["teachers"][0]["attemptCount"] == 1


@pytest.mark.lengthy
@pytest.mark.server_only  # its controller decides what DNS answers
async def test_the_pods_of_several_nodes_have_names_before_they_are_ready(world: World) -> None:
    """Each waits for the first before it does anything else, so none would ever be ready first."""
    run = "named"
    service = f"{run}-grounding-dino"
    await world.create(run, nodes=2, gpus=1)
    await world.inspects(run)
    first = await world.pod(run, "grounding-dino")
    second = await world.pod(run, "grounding-dino", besides=[first["metadata"]["name"]])
    for number, pod in enumerate((first, second), start=1):
        await world.schedule(pod)
        address = f"10.1.1.{number}"
        unready = {"type": "Ready", "status": "False", "lastTransitionTime": moment()}
        await world.report(pod, conditions=[unready], phase="Running", podIP=address, podIPs=[{"ip": address}])

    async def names() -> bool:
        slices = await world.all("endpointslices", labelSelector=f"kubernetes.io/service-name={service}")
        endpoints = [one for part in slices for one in part["endpoints"] or ()]
        answered = {one["hostname"] for one in endpoints if one["conditions"]["ready"]}
        return answered == {f"{service}-0", f"{service}-1"}

    await world.until(names, "both have names")
    for pod in (first, second):
        (container,) = pod["spec"]["containers"]
        variables = [one["name"] for one in container["env"]]
        assert "JOB_COMPLETION_INDEX" in variables, "of which the command makes the node's rank"
        assert f"{service}-0.{service}:29500" in container["command"]


@pytest.mark.lengthy
async def test_a_queue_says_when_a_trainer_runs(world: World) -> None:
    """Kueue takes a suspended Job with its label and lets it run, or stops it again; the operator never does."""
    run = "queued"
    await world.create(run, queueName="team-queue")
    await world.inspects(run)
    await world.reaches(run, "Queued", saying="team-queue")
    job = await world.job(run, "grounding-dino")
    assert job["spec"]["suspend"]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-queue"
    await world.remains(lambda: _is_suspended(world, run), "the Job is suspended")
    await world.patch("jobs", f"{run}-grounding-dino", {"spec": {"suspend": False}})
    pod = await world.starts(run)
    await world.reaches(run, "Training")
    await world.patch("jobs", f"{run}-grounding-dino", {"spec": {"suspend": True}})
    await world.told_to_stop(pod)
    await world.stops(pod)
    await world.reaches(run, "Queued")
    await world.patch("jobs", f"{run}-grounding-dino", {"spec": {"suspend": False}})
    await world.trains(run)
    status = await world.reaches(run, "Succeeded")
    assert status["teachers"][0]["attemptCount"] == 2


async def _is_suspended(world: World, run: str) -> bool:
    job = await world.find("jobs", f"{run}-grounding-dino")
    return job is not None and bool(job["spec"].get("suspend"))


async def test_one_name_in_two_namespaces_is_two_runs(new_world: NewWorld) -> None:
    world = await new_world(namespaces=("red", "blue"))
    for namespace, output in (("red", "s3://red-models/"), ("blue", "s3://blue-models/")):
        await world.create("twin", namespace=namespace, output=output)
    await asyncio.gather(*(world.inspects("twin", namespace=namespace) for namespace in ("red", "blue")))
    pod = await world.starts("twin", namespace="red")
    await world.fails(pod, 41, message=outcomes.failure(41, "red is broken"))
    await world.trains("twin", namespace="blue")
    await world.reaches("twin", "DataInvalid", saying="red is broken", namespace="red")
    status = await world.reaches("twin", "Succeeded", namespace="blue")
    assert "red" not in str(status)
    for namespace in ("red", "blue"):
        requests = await world.all("configmaps", namespace=namespace, labelSelector="finetune.dev/run=twin")
        assert f"s3://{namespace}-models/" in requests[0]["data"]["request.yaml"]


@pytest.mark.memory_only  # watches of a real API server cannot be held up
async def test_a_pod_that_is_seen_later_than_the_end_of_its_job_is_requested(new_world: NewWorld) -> None:
    """Watches of Jobs and pods go their own pace; what a trainer left is not taken for lost, and nothing runs twice."""
    world = await new_world()
    assert world.memory is not None
    await world.create("late")
    await world.inspects("late")
    pod = await world.starts("late")
    await world.teacher_reaches("late", "Training")
    job = await world.job("late", "grounding-dino")
    world.memory.objects.late.add("pods")
    await world.succeeds(pod, outcomes.trained("late", DINO))
    await world.reaches("late", "Succeeded")
    assert (await world.job("late", "grounding-dino"))["metadata"]["uid"] == job["metadata"]["uid"]


@pytest.mark.memory_only  # watches of a real API server cannot be held up
@pytest.mark.parametrize("part", ["inspect", "grounding-dino"])
async def test_a_failure_that_is_seen_later_than_that_of_its_job_is_reported_all_the_same(
    new_world: NewWorld, part: str
) -> None:
    world = await new_world()
    assert world.memory is not None
    await world.create("late")
    if part != "inspect":
        await world.inspects("late")
    pod = await world.pod("late", part)
    await world.runs(pod)
    world.memory.objects.late.add("pods")
    await world.fails(pod, 41, message=outcomes.failure(41, "there are no images"))
    await world.reaches("late", "DataInvalid", saying="there are no images")

"""Runs that go wrong: what the status says, what is tried again, and what is not."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import outcomes
import pytest
from health import kstatus
from places import NewWorld
from world import Body, RefusedError, World, condition

from engine.spec import TeacherName

pytestmark = pytest.mark.asyncio

DINO = TeacherName.GROUNDING_DINO
MISSING_BUCKET = "s3://data/a.json cannot be read: the bucket data does not exist: check its name and the endpoint"
WRONG_KEY = "s3://data/a.json cannot be read: the secret key is wrong: check AWS_SECRET_ACCESS_KEY"


async def _pods_of(world: World, run: str, part: str) -> int:
    jobs = [pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] for pod in await world.pods(run)]
    return jobs.count(f"{run}-{part}")


async def test_a_manifest_with_a_fault_is_not_taken(world: World) -> None:
    with pytest.raises(RefusedError, match=r"spec\.dataset|output") as refused:
        await world.create("bad", output=None)
    assert refused.value.code == 422
    with pytest.raises(RefusedError, match="epochs"):
        await world.create("bad", teachers=[{"name": "Sam", "epochs": "many"}])
    with pytest.raises(RefusedError, match=r"s3://"):
        await world.create("bad", output="/a/path/that/pods/cannot/see")
    assert await world.find("teacherfinetunes", "bad") is None


@pytest.mark.parametrize(
    ("run", "code", "reason", "message"),
    [
        ("nothing-to-learn", 41, "DataInvalid", "annotations.json has no usable annotation: label something first"),
        ("bad-config", 40, "ConfigurationInvalid", "learningRate 2 is above 1"),
    ],
)
async def test_what_inspection_cannot_accept_ends_the_run_at_once(
    world: World, run: str, code: int, reason: str, message: str
) -> None:
    await world.create(run)
    pod = await world.pod(run, "inspect")
    await world.runs(pod)
    await world.says(pod, "reading annotations.json", message)
    await world.fails(pod, code, message=outcomes.failure(code, message))
    status = await world.reaches(run, reason, saying=message)
    assert kstatus(await world.run(run)) == "Failed"
    assert condition(status, "DatasetInspected")["status"] == "False"
    assert message in condition(status, "Stalled")["message"]
    assert "reading annotations.json" in condition(status, "Stalled")["message"]
    assert await _pods_of(world, run, "inspect") == 1
    assert [job["metadata"]["name"] for job in await world.jobs(run)] == [f"{run}-inspect"]
    warnings = await world.warned(run)
    assert len(warnings) == 1
    assert message in warnings[0]["message"]


@pytest.mark.lengthy
@pytest.mark.parametrize(("run", "message"), [("no-bucket", MISSING_BUCKET), ("wrong-key", WRONG_KEY)])
async def test_a_store_that_refuses_is_asked_again_and_then_told_of(world: World, run: str, message: str) -> None:
    await world.create(run)
    seen: list[str] = []
    for _ in range(3):
        pod = await world.pod(run, "inspect", besides=seen)
        seen.append(pod["metadata"]["name"])
        await world.runs(pod)
        await world.fails(pod, 43, message=outcomes.failure(43, message))
        if len(seen) < 3:
            told = f"attempt {len(seen) + 1}, after StorageUnavailable: {message}"
            await world.reaches(run, "Inspecting", saying=told)
    await world.reaches(run, "StorageUnavailable", saying=message)
    assert kstatus(await world.run(run)) == "Failed"


async def test_a_secret_that_is_not_there_is_waited_for_and_told_of(world: World) -> None:
    run = "no-secret"
    await world.create(run, storage={"credentialsSecretRef": {"name": "s3-keys"}})
    pod = await world.pod(run, "inspect")
    env = {one["name"]: one for one in pod["spec"]["containers"][0]["env"]}
    assert env["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"]["name"] == "s3-keys"
    await world.waits(pod, "CreateContainerConfigError", 'secret "s3-keys" not found')
    await world.reaches(run, "Inspecting", saying='secret "s3-keys" not found')
    await world.runs(pod)
    await world.succeeds(pod, outcomes.prepared(run))
    await world.trains(run)
    await world.reaches(run, "Succeeded")


async def test_a_gpu_that_is_not_there_is_waited_for_and_told_of(world: World) -> None:
    run = "no-gpu"
    await world.create(run, gpuResourceName="nvidia.com/mig-1g.5gb")
    await world.inspects(run)
    pod = await world.pod(run, "grounding-dino")
    await world.unschedulable(pod, "0/3 nodes are available: 3 Insufficient nvidia.com/mig-1g.5gb.")
    status = await world.reaches(run, "Pending", saying="no node has a free nvidia.com/mig-1g.5gb")
    assert kstatus(await world.run(run)) == "InProgress"
    assert status["gpuSeconds"] == 0
    await world.trains(run)
    await world.reaches(run, "Succeeded")


async def test_an_image_that_cannot_be_pulled_is_reported(world: World) -> None:
    run = "no-image"
    await world.create(run)
    await world.inspects(run)
    pod = await world.pod(run, "grounding-dino")
    await world.waits(pod, "ErrImagePull", "failed to resolve registry.example/trainer:1: not found")
    image = pod["spec"]["containers"][0]["image"]
    await world.reaches(run, "Pending", saying=f"image cannot be pulled: {image}: failed to resolve")
    await world.waits(pod, "ImagePullBackOff", 'Back-off pulling image "registry.example/trainer:1"')
    await world.reaches(run, "Pending", saying="Back-off pulling image")
    await world.trains(run)
    await world.reaches(run, "Succeeded")


ENDS = {
    40: "ConfigurationInvalid",
    41: "DataInvalid",
    42: "BaseModelUnavailable",
    43: "StorageUnavailable",
    44: "OutOfGpuMemory",
    45: "LossNotFinite",
    46: "NoProgress",
    47: "MachineUnfit",
    1: "Unexpected",
}


async def test_every_exit_code_of_a_trainer_has_its_reason(world: World) -> None:
    """Without retries, all at once; a process that was killed has left no word."""

    async def end(code: int, reason: str) -> None:
        run = f"code-{code}"
        await world.create(run, backoffLimit=0)
        await world.inspects(run)
        pod = await world.starts(run)
        await world.says(pod, outcomes.step(3), f"Traceback of {code}")
        await world.fails(pod, code, message=outcomes.failure(code, f"what ended with {code}") if code < 100 else "")
        status = await world.reaches(run, reason)
        failure = status["teachers"][0]["failure"]
        assert (failure["exitCode"], failure["node"], failure["pod"]) == (code, world.node, pod["metadata"]["name"])
        assert failure["logTail"] == [f"Traceback of {code}"]
        if code < 100:
            assert f"what ended with {code}" in condition(status, "Succeeded")["message"]
        assert kstatus(await world.run(run)) == "Failed"
        assert await _pods_of(world, run, "grounding-dino") == 1

    await asyncio.gather(*(end(code, reason) for code, reason in (ENDS | {137: "Killed", 139: "Crashed"}).items()))


@pytest.mark.lengthy
async def test_what_would_fail_again_is_not_tried_again(world: World) -> None:
    async def end(code: int) -> None:
        run = f"once-{code}"
        await world.create(run, backoffLimit=5)
        await world.inspects(run)
        pod = await world.starts(run)
        await world.fails(pod, code, message=outcomes.failure(code, "it would come again"))
        await world.reaches(run, ENDS[code])
        await world.remains(lambda: _has_pods(world, run, 1), "there is one pod")

    await asyncio.gather(*(end(code) for code in (40, 41, 45)))


async def _has_pods(world: World, run: str, count: int) -> bool:
    return await _pods_of(world, run, "grounding-dino") == count


@pytest.mark.lengthy
async def test_what_may_go_well_next_time_is_tried_again(world: World) -> None:
    async def end(code: int) -> None:
        run = f"again-{code}"
        await world.create(run, backoffLimit=1)
        await world.inspects(run)
        pod = await world.starts(run)
        await world.fails(pod, code, message=outcomes.failure(code, f"gone for a moment ({code})"))
        other = await world.pod(run, "grounding-dino", besides=[pod["metadata"]["name"]])
        await world.runs(other)
        await world.reaches(run, "Training", saying=f"attempt 2, after {ENDS[code]}: ")
        await world.succeeds(other, outcomes.trained(run, DINO))
        status = await world.reaches(run, "Succeeded")
        assert [one.get("exitCode") for one in status["teachers"][0]["attempts"]] == [code, 0]
        assert "failure" not in status["teachers"][0]
        reasons = [event["reason"] for event in await world.warned(run)]
        assert reasons == [ENDS[code]]

    await asyncio.gather(*(end(code) for code in (42, 43, 44, 1)))


@pytest.mark.lengthy
async def test_retries_end(world: World) -> None:
    run = "never"
    await world.create(run, backoffLimit=1)
    await world.inspects(run)
    pod = await world.starts(run)
    await world.fails(pod, 44, message=outcomes.failure(44, "CUDA out of memory: lower the batch size"))
    pod = await world.pod(run, "grounding-dino", besides=[pod["metadata"]["name"]])
    await world.runs(pod)
    await world.fails(pod, 44, message=outcomes.failure(44, "CUDA out of memory: lower the batch size"))
    status = await world.reaches(run, "OutOfGpuMemory", saying="(attempt 2, the last)")
    assert status["teachers"][0]["attemptCount"] == 2


@pytest.mark.lengthy
async def test_a_container_that_wants_too_much_memory_is_reported_its_limit(world: World) -> None:
    run = "oom"
    await world.create(run, backoffLimit=0, resources={"limits": {"memory": "3Gi"}})
    await world.inspects(run)
    pod = await world.starts(run)
    await world.fails(pod, 137, reason="OOMKilled")
    await world.reaches(run, "OutOfMemory", saying="more than its limit of 3Gi")


@pytest.mark.lengthy
async def test_a_stop_after_a_checkpoint_is_no_failure(world: World) -> None:
    run = "stopped"
    await world.create(run, backoffLimit=0)
    await world.inspects(run)
    pod = await world.starts(run)
    await world.fails(pod, 143, message=outcomes.failure(143, "stopped by SIGTERM after a checkpoint"))
    other = await world.pod(run, "grounding-dino", besides=[pod["metadata"]["name"]])
    await world.runs(other)
    await world.succeeds(other, outcomes.trained(run, DINO))
    status = await world.reaches(run, "Succeeded")
    assert status["teachers"][0]["attemptCount"] == 2


@pytest.mark.lengthy
async def test_a_node_that_is_lost_costs_no_retry(world: World) -> None:
    run = "lost"
    await world.create(run, backoffLimit=0)
    await world.inspects(run)
    pod = await world.starts(run)
    await world.teacher_reaches(run, "Training")
    await world.disrupted(pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
    await world.delete("pods", pod["metadata"]["name"])
    await world.reaches(run, "Pending", saying=f"on node {world.node} is being stopped")
    assert await _pods_of(world, run, "grounding-dino") == 1, "two may not train at once"
    await world.disrupted(pod, "DeletionByPodGC", "PodGC: node no longer exists")
    await world.report(pod, phase="Failed")
    await world.vanishes(pod)
    other = await world.pod(run, "grounding-dino", besides=[pod["metadata"]["name"]])
    await world.runs(other)
    await world.teacher_reaches(run, "Training")
    await world.succeeds(other, outcomes.trained(run, DINO))
    status = await world.reaches(run, "Succeeded")
    assert status["teachers"][0]["attemptCount"] == 2
    assert (await world.job(run, "grounding-dino"))["status"].get("failed", 0) == 0


@pytest.mark.lengthy
async def test_a_pod_that_is_evicted_costs_no_retry(world: World) -> None:
    run = "evicted"
    await world.create(run, backoffLimit=0)
    await world.inspects(run)
    pod = await world.starts(run)
    await world.disrupted(pod, "TerminationByKubelet", "The node was low on resource: ephemeral-storage.")
    await world.ends(
        pod,
        137,
        "Error",
        "",
        phase="Failed",
        reason="Evicted",
        message="The node was low on resource: ephemeral-storage.",
    )
    other = await world.pod(run, "grounding-dino", besides=[pod["metadata"]["name"]])
    await world.reaches(run, "Starting", saying="after Evicted: evicted on node")
    await world.runs(other)
    await world.succeeds(other, outcomes.trained(run, DINO))
    await world.reaches(run, "Succeeded")


async def test_a_name_that_somebody_else_has_is_waited_for(world: World) -> None:
    run = "taken"
    theirs = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"{run}-inspect"},
        "spec": {
            "suspend": True,
            "template": {
                "metadata": {"labels": {"app": "theirs"}},
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [{"name": "theirs", "image": "theirs"}],
                },
            },
        },
    }
    await world.api.call("POST", world.path("jobs"), theirs)
    await world.create(run)
    await world.reaches(run, "NameTaken", saying=f"Job {run}-inspect of another owner")
    assert (await world.job(run, "inspect"))["spec"]["template"]["spec"]["containers"][0]["image"] == "theirs"
    await world.delete("jobs", f"{run}-inspect", propagationPolicy="Background")
    await world.inspects(run)
    await world.trains(run)
    await world.reaches(run, "Succeeded")


@pytest.mark.parametrize("plural", ["configmaps", "services", "jobs"])
async def test_a_child_of_somebody_else_is_never_taken_over(world: World, plural: str) -> None:
    """Nor deleted with the run. It is waited for, and the status says so."""
    run = f"foreign-{plural}"
    await world.create(run, nodes=2, suspend=True)
    uid = (await world.run(run))["metadata"]["uid"]
    name = f"{run}-request-{uid[:8]}" if plural == "configmaps" else f"{run}-grounding-dino"
    container = {"name": "theirs", "image": "theirs"}
    bodies: dict[str, Body] = {
        "configmaps": {"data": {"request.yaml": "theirs"}},
        "services": {"spec": {"clusterIP": "None", "selector": {"app": "theirs"}, "ports": [{"port": 80}]}},
        "jobs": {
            "spec": {"suspend": True, "template": {"spec": {"restartPolicy": "Never", "containers": [container]}}}
        },
    }
    theirs = await world.api.call("POST", world.path(plural), {"metadata": {"name": name}, **bodies[plural]})
    await world.edit(run, suspend=False)
    if plural != "configmaps":
        await world.inspects(run)
    kind = {"configmaps": "ConfigMap", "services": "Service", "jobs": "Job"}[plural]
    await world.reaches(run, "NameTaken", saying=f"{kind} {name} of another owner")
    assert kstatus(await world.run(run)) == "InProgress"

    async def untouched() -> bool:
        found = await world.find(plural, name) or {"metadata": {}}
        same = found.get("data") == theirs.get("data") and found.get("spec") == theirs.get("spec")
        meta = ("uid", "labels", "ownerReferences", "deletionTimestamp")
        return same and all(found["metadata"].get(name) == theirs["metadata"].get(name) for name in meta)

    await world.remains(untouched, "it stays as it was")
    await world.delete("teacherfinetunes", run)
    await world.gone("teacherfinetunes", run)
    await world.remains(untouched, "it stays when the run goes")


async def test_a_name_is_used_when_it_is_free_again(world: World) -> None:
    run = "svc"
    service = {"metadata": {"name": f"{run}-grounding-dino"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}}
    await world.api.call("POST", world.path("services"), service)
    await world.create(run, nodes=2)
    await world.inspects(run)
    await world.reaches(run, "NameTaken", saying=f"Service {run}-grounding-dino of another owner")
    assert await world.find("jobs", f"{run}-grounding-dino") is None
    await world.delete("services", f"{run}-grounding-dino")
    await world.job(run, "grounding-dino")
    owner = (await world.find("services", f"{run}-grounding-dino") or {})["metadata"]["ownerReferences"][0]
    assert owner["uid"] == (await world.run(run))["metadata"]["uid"]


async def test_children_that_are_there_already_are_kept(world: World) -> None:
    """A Job is made anew, its Service not: as where an operator ended between making a child and noting it."""
    run = "kept"
    await world.create(run, nodes=2)
    await world.inspects(run)
    job = await world.job(run, "grounding-dino")
    service = await world.find("services", f"{run}-grounding-dino") or {}
    await world.delete("jobs", f"{run}-grounding-dino", propagationPolicy="Background")
    for _ in range(2):
        pods = [one for one in await world.pods(run) if one["metadata"]["labels"].get("finetune.dev/teacher")]
        for pod in pods:
            await world.vanishes(pod)
    await world.job(run, "grounding-dino", other_than=job["metadata"]["uid"])
    again = await world.find("services", f"{run}-grounding-dino") or {}
    assert again["metadata"]["uid"] == service["metadata"]["uid"]


async def test_a_container_that_is_stopped_as_it_starts_costs_one_attempt(world: World) -> None:
    """Its runtime's own exit code 2, and no outcome: nothing is known to be wrong with the configuration."""
    run = "early"
    await world.create(run)
    first = await world.pod(run, "inspect")
    await world.fails(first, 2)
    second = await world.pod(run, "inspect", besides=[first["metadata"]["name"]])
    await world.runs(second)
    await world.succeeds(second, outcomes.prepared(run))
    pod = await world.starts(run)
    await world.fails(pod, 2)
    other = await world.pod(run, "grounding-dino", besides=[pod["metadata"]["name"]])
    await world.runs(other)
    await world.succeeds(other, outcomes.trained(run, DINO))
    await world.reaches(run, "Succeeded")


@pytest.mark.server_only  # it validates Jobs
async def test_a_field_that_no_pod_has_ends_the_run(world: World) -> None:
    run = "typo"
    await world.create(run, affinity={"nodeAfinity": {}})
    status = await world.reaches(run, "ChildRefused", saying="nodeAfinity")
    assert status["stages"][0]["state"] == "Failed", "inspection has the affinity too, and comes first"


@pytest.mark.server_only  # it validates Jobs
async def test_a_job_that_can_never_be_made_ends_the_run(world: World) -> None:
    run = "refused"
    await world.create(run, resources={"requests": {"memory": "8Gi"}, "limits": {"memory": "4Gi"}})
    await world.inspects(run)
    status = await world.reaches(run, "ChildRefused", saying="must be less than or equal to memory limit")
    assert kstatus(await world.run(run)) == "Failed"
    assert status["teachers"][0]["state"] == "Failed"


@pytest.mark.lengthy
async def test_a_job_that_may_not_be_made_now_is_made_when_it_may(new_world: NewWorld) -> None:
    world = await new_world()
    run = "quota"
    await world.forbids("jobs")
    await world.create(run)
    await world.reaches(run, "Pending", saying="exceeded quota")
    assert kstatus(await world.run(run)) == "InProgress"
    await world.allows_again()
    await world.inspects(run)
    await world.trains(run)
    await world.reaches(run, "Succeeded")


@pytest.mark.lengthy
async def test_a_pod_that_cannot_be_made_is_reported(new_world: NewWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Job says nothing of the pods that it cannot make; its events do.

    They are read after more than the second for which one reading serves all: it is not that of the inspection.
    """
    monkeypatch.setattr("teacher_operator.decide.job_state.EVENTS_AFTER_SECONDS", 2)
    world = await new_world()
    run = "no-pods"
    await world.create(run)
    pod = await world.pod(run, "inspect")
    await world.runs(pod)
    await world.forbids("pods")
    await world.succeeds(pod, outcomes.prepared(run))
    await world.reaches(run, "Pending", saying="its pod cannot be created: FailedCreate: Error creating", seconds=90)
    assert kstatus(await world.run(run)) == "InProgress"
    await world.allows_again()
    await world.trains(run)
    await world.reaches(run, "Succeeded")


@pytest.mark.slow
async def test_a_trainer_that_never_starts_is_given_up(world: World) -> None:
    run = "impatient"
    await world.create(run, pendingDeadlineSeconds=30)
    await world.inspects(run)
    pod = await world.pod(run, "grounding-dino")
    await world.unschedulable(pod, "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
    await world.reaches(run, "NotStartedInTime", saying="no node has a free nvidia.com/gpu", seconds=50)
    await world.gone("jobs", f"{run}-grounding-dino")
    assert kstatus(await world.run(run)) == "Failed"


@pytest.mark.slow
async def test_a_trainer_that_takes_too_long_is_stopped(world: World) -> None:
    run = "endless"
    await world.create(run, activeDeadlineSeconds=60)
    await world.inspects(run)
    pod = await world.starts(run)
    await world.told_to_stop(pod, seconds=80)
    await world.stops(pod)
    await world.reaches(run, "DeadlineExceeded", saying="activeDeadlineSeconds = 60")


@pytest.mark.slow
async def test_a_lost_node_is_reported_and_a_pod_deleted_by_force_frees_the_run(world: World) -> None:
    """The Job itself would wait for a phase that no kubelet reports any more."""
    run = "node-lost"
    await world.create(run)
    await world.inspects(run)
    pod = await world.starts(run)
    await world.says(pod, outcomes.step(10))
    await world.teacher_reaches(run, "Training")
    await world.loses_node(pod)
    await world.reaches(run, "Training", saying=f"node {world.node} is not ready since ")
    status = await world.status(run)
    assert (condition(status, "Responding")["status"], condition(status, "Responding")["reason"]) == (
        "False",
        "NodeNotReady",
    )
    assert "timeLeft" not in status["summary"] or status["summary"]["timeLeft"] == ""
    assert "NodeNotReady" in [event["reason"] for event in await world.warned(run)]
    await world.vanishes(pod)  # by force
    await world.reaches(run, "Pending", saying="is being stopped; node ")
    assert await world.find("pods", pod["metadata"]["name"]), "its Job holds it"
    other = await world.pod(run, "grounding-dino", besides=[pod["metadata"]["name"]], seconds=90)
    await world.runs(other)
    await world.succeeds(other, outcomes.trained(run, DINO))
    await world.reaches(run, "Succeeded")


async def test_inspection_waits_for_a_secret_as_long_as_it_takes(world: World) -> None:
    """Its Job has no deadline: there is none that does not count the wait."""
    run = "keyless"
    await world.create(run)
    pod = await world.pod(run, "inspect")
    missing = 'couldn\'t find key AWS_SECRET_ACCESS_KEY in Secret "team/s3-keys"'
    await world.waits(pod, "CreateContainerConfigError", missing)
    await world.reaches(run, "Inspecting", saying=missing)
    assert "activeDeadlineSeconds" not in (await world.job(run, "inspect"))["spec"]
    await world.runs(pod)
    await world.reaches(run, "Inspecting", saying="the data is being inspected")
    await world.succeeds(pod, outcomes.prepared(run))
    await world.trains(run)
    await world.reaches(run, "Succeeded")


async def test_inspection_that_does_not_end_is_stopped(world: World) -> None:
    """From when its container began: here four hours ago, as after a long absence of the operator."""
    run = "hanging"
    await world.create(run)
    pod = await world.pod(run, "inspect")
    await world.schedule(pod)
    begun = datetime.now(UTC) - timedelta(hours=4)
    await world.report(pod, {"running": {"startedAt": f"{begun:%Y-%m-%dT%H:%M:%SZ}"}}, phase="Running")
    await world.reaches(run, "DeadlineExceeded", saying="inspection has run for 4 hours")
    await world.told_to_stop(pod)
    await world.stops(pod)
    await world.gone("jobs", f"{run}-inspect")
    assert kstatus(await world.run(run)) == "Failed"


async def test_the_deadline_of_an_earlier_versions_inspection_is_taken_away(world: World) -> None:
    run = "older"
    await world.create(run)
    await world.job(run, "inspect")
    await world.patch("jobs", f"{run}-inspect", {"spec": {"activeDeadlineSeconds": 4 * 3600}})

    async def free() -> bool:
        return "activeDeadlineSeconds" not in (await world.job(run, "inspect"))["spec"]

    await world.until(free, "the Job has no deadline")


async def test_inspection_tolerates_the_taints_of_its_stage(world: World) -> None:
    """A cluster all of whose nodes are tainted."""
    run = "dedicated"
    await world.create(run)
    pod = await world.pod(run, "inspect")
    said = "0/2 nodes are available: 2 node(s) had untolerated taint {dedicated: ml}."
    await world.unschedulable(pod, said)
    await world.reaches(run, "Inspecting", saying="or those of the stage Inspection in spec.stages")
    toleration = {"key": "dedicated", "operator": "Exists"}
    await world.edit(run, stages=[{"name": "Inspection", "tolerations": [toleration]}])
    other = await world.pod(run, "inspect", besides=[pod["metadata"]["name"]])
    assert toleration.items() <= next(one for one in other["spec"]["tolerations"] if one["key"] == "dedicated").items()
    await world.inspects(run)
    trainer = await world.pod(run, "grounding-dino")
    assert not any(one["key"] == "dedicated" for one in trainer["spec"].get("tolerations") or ())
    await world.trains(run)
    await world.reaches(run, "Succeeded")


@pytest.mark.slow
async def test_inspection_that_never_starts_is_given_up(world: World) -> None:
    run = "tainted"
    await world.create(run, pendingDeadlineSeconds=30)
    pod = await world.pod(run, "inspect")
    said = "0/2 nodes are available: 2 node(s) had untolerated taint {dedicated: ml}."
    await world.unschedulable(pod, said)
    await world.reaches(run, "Inspecting", saying=said)
    await world.reaches(run, "NotStartedInTime", saying=said, seconds=50)
    await world.gone("jobs", f"{run}-inspect")

"""Clusters that ask something of every pod, and runs that give it."""

from __future__ import annotations

import pytest
from health import kstatus
from places import NewWorld
from world import World

pytestmark = pytest.mark.asyncio

LABEL = {"cost-center": "vision-7"}


async def test_a_policy_that_requires_a_label_is_waited_for_and_satisfied(new_world: NewWorld) -> None:
    world = await new_world()
    run = "labelled"
    await world.requires_label("cost-center")
    await world.create(run)
    await world.reaches(run, "Pending", saying="label cost-center is required")
    assert kstatus(await world.run(run)) == "InProgress"
    await world.edit(run, pod={"labels": LABEL, "annotations": {"sidecar.istio.io/inject": "false"}})
    await world.inspects(run)
    await world.trains(run)
    await world.reaches(run, "Succeeded")
    for one in (*await world.jobs(run), *await world.pods(run)):
        assert LABEL.items() <= one["metadata"]["labels"].items()
        assert one["metadata"]["annotations"]["sidecar.istio.io/inject"] == "false"


async def test_a_running_trainer_keeps_going_when_a_policy_denies_its_new_settings(new_world: NewWorld) -> None:
    world = await new_world()
    run = "denied"
    await world.create(run, pod={"labels": LABEL})
    await world.inspects(run)
    await world.starts(run)
    before = await world.job(run, "grounding-dino")
    await world.requires_label("cost-center")
    await world.edit(run, pod={"labels": {"cost-center": None, "team": "a"}})
    await world.reaches(run, "Training", saying="its new settings are refused, and it continues with the old ones")
    assert (await world.job(run, "grounding-dino"))["metadata"]["uid"] == before["metadata"]["uid"]


async def test_inspection_and_trainers_are_placed_as_the_run_says(world: World) -> None:
    """On a cluster whose nodes are all tainted nothing else would be scheduled."""
    run = "tainted"
    taint = {"key": "team", "operator": "Equal", "value": "vision", "effect": "NoSchedule"}
    await world.create(
        run,
        tolerations=[taint],
        nodeSelector={"pool": "gpu"},
        stages=[{"name": "Inspection", "nodeSelector": {}, "priorityClassName": ""}],
    )
    pod = await world.pod(run, "inspect")
    own = [one for one in pod["spec"]["tolerations"] if not one["key"].startswith("node.kubernetes.io/")]
    assert own == [taint, {"key": "nvidia.com/gpu", "operator": "Exists"}]
    assert "nodeSelector" not in pod["spec"]
    await world.inspects(run)
    pod = await world.pod(run, "grounding-dino")
    assert taint in pod["spec"]["tolerations"]
    assert pod["spec"]["nodeSelector"] == {"pool": "gpu"}


async def test_settings_of_one_stage_replace_its_job_alone(world: World) -> None:
    run = "restaged"
    await world.create(run)
    await world.inspects(run)
    pod = await world.starts(run)
    before = await world.job(run, "grounding-dino")
    await world.edit(run, stages=[{"name": "Sam", "env": [{"name": "A", "value": "1"}]}])
    await world.remains(
        lambda: _has(world, run, before["metadata"]["uid"]), "the trainer of the other stage", seconds=1
    )
    await world.edit(run, stages=[{"name": "GroundingDino", "env": [{"name": "A", "value": "1"}]}])
    await world.told_to_stop(pod)
    await world.stops(pod)
    job = await world.job(run, "grounding-dino", other_than=before["metadata"]["uid"])
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert {"name": "A", "value": "1"} in container["env"]


async def _has(world: World, run: str, uid: str) -> bool:
    return (await world.job(run, "grounding-dino"))["metadata"]["uid"] == uid


async def test_a_claim_of_devices_is_taken_by_the_api_server_and_its_gpus_are_counted(world: World) -> None:
    run = "devices"
    claim = {"name": "gpus", "resourceClaimTemplateName": "two-gpus", "gpus": 2}
    await world.create(run, gpus=0, pod={"resourceClaims": [claim]})
    await world.inspects(run)
    job = await world.job(run, "grounding-dino")
    template = job["spec"]["template"]
    assert template["spec"]["resourceClaims"] == [{"name": "gpus", "resourceClaimTemplateName": "two-gpus"}]
    (container,) = template["spec"]["containers"]
    assert container["resources"]["claims"] == [{"name": "gpus"}]
    assert "nvidia.com/gpu" not in container["resources"].get("limits", {})
    assert container["command"][:4] == ["teacher", "launch", "--processes", "2"]

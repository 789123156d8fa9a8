"""Tools that wait by kstatus never take an object for done that no operator has seen."""

from __future__ import annotations

import asyncio
import copy
import time
from typing import Any

import control_plane as real
import outcomes
import pytest
import yaml
from health import argo_cd, kstatus
from memory_api import CRD
from places import NewWorld, admin
from world import Body, RefusedError, World

pytestmark = pytest.mark.asyncio


async def test_an_object_that_no_operator_has_seen_is_in_progress(new_world: NewWorld) -> None:
    """From the answer to its creation on, whatever status it came with; also one that is suspended."""
    world = await new_world(start=False)
    for run, spec in (("unseen", {}), ("unseen-suspended", {"suspend": True})):
        for body in (await world.create(run, **spec), await world.run(run), *await world.all("teacherfinetunes")):
            assert body["status"]["observedGeneration"] == 0
            assert (kstatus(body), argo_cd(body)) == ("InProgress", "Progressing")
    done = {"observedGeneration": 1, "conditions": [{"type": "Succeeded", "status": "True"}]}
    body = await world.run("unseen")
    metadata = {"namespace": world.namespace, "name": "planted"}
    made = await world.api.call("POST", world.path("teacherfinetunes"), {**body, "metadata": metadata, "status": done})
    assert kstatus(made) == kstatus(await world.run("planted")) == "InProgress"
    edited = await world.edit("unseen", suspend=True)
    assert kstatus(edited) == "InProgress"
    await world.operator.start()
    for run in ("unseen", "unseen-suspended"):
        await world.reaches(run, "Suspended")
        assert (kstatus(await world.run(run)), argo_cd(await world.run(run))) == ("Current", "Suspended")
    await world.edit("unseen", suspend=None)
    await world.reaches("unseen", "Inspecting")
    assert kstatus(await world.run("unseen")) == "InProgress"


async def test_a_status_that_is_taken_away_is_in_progress(world: World) -> None:
    """By hand, or by a backup that restores objects without it."""
    run = "bared"
    await world.create(run)
    await world.pod(run, "inspect")
    for status in (None, {}):
        answer = await world.patch("teacherfinetunes", run, {"status": status}, sub="status")
        assert kstatus(answer) == "InProgress"
    await world.inspects(run, outcomes.BOXES)
    await world.reaches(run, "Starting")
    assert kstatus(await world.run(run)) == "InProgress"


@pytest.fixture
def earlier() -> Body:
    """The definition of a version whose status had no default, in a group of its own."""
    crd = copy.deepcopy(CRD)
    crd["spec"]["group"] = "earlier.finetune.dev"
    crd["metadata"]["name"] = f"{CRD['spec']['names']['plural']}.earlier.finetune.dev"
    crd["spec"]["names"] |= {"shortNames": [], "categories": []}
    del crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["default"]
    return crd


async def test_objects_of_an_earlier_definition_are_in_progress_too(
    earlier: Body, tier_real: real.ControlPlane
) -> None:
    plane = tier_real
    later = copy.deepcopy(earlier)
    default = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["default"]
    later["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["default"] = default
    objects = "apis/earlier.finetune.dev/v1alpha1/namespaces/default/teacherfinetunes"
    body = {
        "apiVersion": "earlier.finetune.dev/v1alpha1",
        "kind": "TeacherFineTune",
        "metadata": {"name": "old"},
        "spec": {"dataset": {"annotations": "s3://data/a.json"}, "output": "s3://models/"},
    }

    async def read(expected: str, method: str, path: str, *data: Any) -> None:
        deadline = time.monotonic() + 60
        while True:  # a definition is served some time after it is stored
            try:
                found = kstatus(await api.call(method, path, *data))
            except RefusedError as error:
                found = str(error)
            if found == expected:
                return
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.1)

    async with admin(plane) as api:
        await asyncio.to_thread(define, plane, earlier)
        await read("Current", "POST", objects, body)
        await asyncio.to_thread(define, plane, later)
        await read("InProgress", "GET", f"{objects}/old")
        await api.call(
            "DELETE", f"apis/apiextensions.k8s.io/v1/customresourcedefinitions/{earlier['metadata']['name']}"
        )


@pytest.fixture
def tier_real(request: pytest.FixtureRequest) -> real.ControlPlane:
    if real.missing():
        pytest.skip(real.missing())
    plane: real.ControlPlane = request.getfixturevalue("control_plane")
    return plane


def define(plane: real.ControlPlane, crd: Body) -> None:
    done = plane.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump(crd))
    assert done.returncode == 0, done.stderr

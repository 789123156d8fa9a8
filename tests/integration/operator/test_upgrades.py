"""Definitions that change under objects that are there."""

from __future__ import annotations

import asyncio
import copy
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import control_plane as real
import outcomes
import pytest
import pytest_asyncio
import yaml
from operators import ProcessOperator
from places import OPERATOR, ROOT, admin, install, make_namespace, token_of
from world import World

from engine.spec import TeacherName

pytestmark = [pytest.mark.asyncio, pytest.mark.slow]

CRD = yaml.safe_load((ROOT / "crds" / "teacherfinetunes.finetune.dev.yaml").read_text())


def other(*, later: bool) -> dict:  # type: ignore[type-arg]
    """The definition of an earlier version, without fields of today; or of a later one, with a default of its own."""
    crd = copy.deepcopy(CRD)
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    dataset, seen = schema["spec"]["properties"]["dataset"], schema["status"]["properties"]["dataset"]
    if later:
        dataset["properties"]["novel"] = {"type": "string", "default": "yes"}
        schema["status"]["properties"]["future"] = {"type": "string"}
        return crd
    for name in ("onProblem", "maxSkippedPercent"):
        del dataset["properties"][name]
    for name in ("imagesRead", "annotationsRead"):
        del seen["properties"][name]
    return crd


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[real.ControlPlane]:
    """A control plane of its own, since its definitions are changed."""
    if real.missing():
        pytest.skip(real.missing())
    plane = real.ControlPlane.start(tmp_path)
    install(plane)
    yield plane
    plane.stop()


@pytest_asyncio.fixture
async def world(plane: real.ControlPlane, tmp_path: Path) -> AsyncIterator[World]:
    await make_namespace(plane, "upgraded")
    access = real.Access(plane.access.url, plane.access.authority, token_of(plane, OPERATOR, OPERATOR))
    operator = ProcessOperator(access.kubeconfig(tmp_path / "kubeconfig"), tmp_path / "operator.log")
    async with admin(plane) as api:
        await api.call("POST", "api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}})
        yield World(api, "upgraded", operator, "api-server", {}, patience=90)
    operator.end(signal.SIGKILL)
    assert "this should not happen" not in operator.text()


def define(plane: real.ControlPlane, crd: dict) -> None:  # type: ignore[type-arg]
    done = plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=yaml.safe_dump(crd))
    assert done.returncode == 0, done.stderr


async def test_definitions_change_under_a_run(plane: real.ControlPlane, world: World) -> None:
    """An object of an earlier version; then a later one, whose default and status today's operator does not know."""
    await asyncio.to_thread(define, plane, other(later=False))
    await asyncio.sleep(2)
    await world.create("old")
    await world.operator.start()
    await world.inspects("old")
    pod = await world.starts("old")
    await world.reaches("old", "Training")
    await asyncio.to_thread(define, plane, other(later=True))
    await asyncio.sleep(2)
    status = {"future": "unknown", "teachers": [{"name": "GroundingDino", "state": "Levitating"}]}
    await world.patch("teacherfinetunes", "old", {"status": status}, sub="status")
    await world.patch("teacherfinetunes", "old", {"metadata": {"annotations": {"seen": "anew"}}})
    await world.reaches("old", "UnknownField", saying="spec.dataset.novel is unknown to this operator")
    assert (
        "deletionTimestamp" not in (await world.find("pods", pod["metadata"]["name"]) or {"metadata": {}})["metadata"]
    )
    await world.operator.kill()
    await asyncio.to_thread(define, plane, CRD)
    await asyncio.sleep(2)
    await world.operator.start()
    await world.succeeds(pod, outcomes.trained("old", TeacherName.GROUNDING_DINO))
    ended = await world.reaches("old", "Succeeded")
    assert [one["state"] for one in ended["teachers"]] == ["Succeeded"]
    assert len(await world.jobs("old")) == len(await world.pods("old")) == 2

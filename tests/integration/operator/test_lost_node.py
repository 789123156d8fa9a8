"""A node that stops reporting, as the real node controller, taint manager and garbage collector treat its pods."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import control_plane as real
import outcomes
import pytest
import pytest_asyncio
from operators import ProcessOperator
from places import OPERATOR, admin, install, make_namespace, token_of
from world import MERGE, Api, Body, World, condition, moment

from engine.spec import TeacherName

pytestmark = [pytest.mark.asyncio, pytest.mark.slow]

NODES = ("node-1", "node-2", "node-3")
CONTROLLERS = (
    *real.CONTROLLERS,
    "node-lifecycle-controller",
    "taint-eviction-controller",
    "pod-garbage-collector-controller",
)
QUICK = ("--node-monitor-period=1s", "--node-monitor-grace-period=6s")


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[real.ControlPlane]:
    """A control plane of its own: elsewhere no node reports, and no controller may mind."""
    if real.missing():
        pytest.skip(real.missing())
    plane = real.ControlPlane.start(tmp_path, ("--default-unreachable-toleration-seconds=12",))
    install(plane, CONTROLLERS, QUICK)
    yield plane
    plane.stop()


@pytest_asyncio.fixture
async def world(plane: real.ControlPlane, tmp_path: Path) -> AsyncIterator[World]:
    await make_namespace(plane, "nodes")
    access = real.Access(plane.access.url, plane.access.authority, token_of(plane, OPERATOR, OPERATOR))
    operator = ProcessOperator(access.kubeconfig(tmp_path / "kubeconfig"), tmp_path / "operator.log")
    async with admin(plane) as api:
        await operator.start()
        yield World(api, "nodes", operator, "api-server", {}, patience=90)
    operator.end(signal.SIGKILL)
    assert "this should not happen" not in operator.text()


async def report(api: Api, alive: set[str]) -> None:
    """Be the kubelets of the nodes that are alive, as far as the node controller looks at them."""
    for node in NODES:
        await api.call("POST", "api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
    while True:
        for node in sorted(alive):
            ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": moment()}
            await api.call("PATCH", f"api/v1/nodes/{node}/status", {"status": {"conditions": [ready]}}, content=MERGE)
        await asyncio.sleep(0.5)


async def runs(world: World, pod: Body, node: str) -> None:
    """Let a pod run, with the conditions that a kubelet gives it."""
    await world.runs(pod, node)
    kinds = ("Initialized", "Ready", "ContainersReady", "PodScheduled")
    conditions = [{"type": kind, "status": "True", "lastTransitionTime": moment()} for kind in kinds]
    await world.report(pod, conditions=conditions)


async def test_a_node_stops_reporting(world: World, plane: real.ControlPlane) -> None:
    """The status names it, then the pod that is stuck there; a deletion by force lets the run resume elsewhere."""
    alive = set(NODES)
    kubelets = asyncio.create_task(report(world.api, alive))
    run = "lost"
    await world.create(run)
    await world.inspects(run)
    pod = await world.pod(run, "grounding-dino")
    name = pod["metadata"]["name"]
    await runs(world, pod, "node-1")
    await world.teacher_reaches(run, "Training")
    alive.remove("node-1")
    status = await world.reaches(run, "Training", saying="node node-1 is not ready since ")
    assert condition(status, "Responding")["reason"] == "NodeNotReady"
    await world.reaches(run, "Pending", saying=f"pod {name} on node node-1 is being stopped; node node-1 is not ready")
    done = plane.kubectl("delete", "pod", name, "-n", world.namespace, "--force", "--grace-period=0", "--wait=false")
    assert done.returncode == 0, done.stderr
    assert await world.find("pods", name) is not None, "its Job holds it"
    other = await world.pod(run, "grounding-dino", besides=[name])
    assert await world.find("pods", name) is None
    await runs(world, other, "node-2")
    await world.teacher_reaches(run, "Training")
    await world.succeeds(other, outcomes.trained(run, TeacherName.GROUNDING_DINO))
    await world.reaches(run, "Succeeded")
    assert not kubelets.done()
    kubelets.cancel()


async def test_a_node_that_is_out_of_service_gives_the_run_back(world: World, plane: real.ControlPlane) -> None:
    alive = set(NODES)
    kubelets = asyncio.create_task(report(world.api, alive))
    run = "tainted"
    await world.create(run)
    await world.inspects(run)
    pod = await world.pod(run, "grounding-dino")
    await runs(world, pod, "node-1")
    await world.teacher_reaches(run, "Training")
    alive.remove("node-1")
    await world.told_to_stop(pod)
    taint = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
    done = plane.kubectl("taint", "nodes", "node-1", taint)
    assert done.returncode == 0, done.stderr
    other = await world.pod(run, "grounding-dino", besides=[pod["metadata"]["name"]])
    await runs(world, other, "node-2")
    await world.succeeds(other, outcomes.trained(run, TeacherName.GROUNDING_DINO))
    await world.reaches(run, "Succeeded")
    assert not kubelets.done()
    kubelets.cancel()

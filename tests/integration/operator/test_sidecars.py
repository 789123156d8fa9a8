"""Sidecars that run on when our container has ended."""

from __future__ import annotations

import time

import outcomes
import pytest
from world import Body, World, moment

from engine.spec import TeacherName

pytestmark = pytest.mark.asyncio

DINO = TeacherName.GROUNDING_DINO
EARLIER = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 3600))
"""So that the proxy has had its time to end."""


async def ends_beside(world: World, pod: Body, code: int, message: str, *, at: str = EARLIER) -> None:
    """Our container ends, and the pod does not."""
    proxy = {"name": "istio-proxy", "image": "proxy", "imageID": "", "ready": True, "restartCount": 0}
    proxy["state"] = {"running": {"startedAt": EARLIER}}
    end = {"exitCode": code, "reason": "Error" if code else "Completed", "message": message}
    state = {"terminated": end | {"startedAt": EARLIER, "finishedAt": at}}
    await world.report(pod, state, others=[proxy], phase="Running")


async def ended_by_its_node(world: World, pod: Body) -> None:
    """The pod is deleted with its Job, and its node ends the proxy."""
    await world.told_to_stop(pod)
    await world.vanishes(pod)


async def test_a_result_is_taken_and_the_gpu_is_free(world: World) -> None:
    run = "meshed"
    await world.create(run)
    pod = await world.pod(run, "inspect")
    await world.runs(pod)
    await ends_beside(world, pod, 0, outcomes.prepared(run))
    await ended_by_its_node(world, pod)
    await world.gone("jobs", f"{run}-inspect")
    pod = await world.starts(run)
    await ends_beside(world, pod, 0, outcomes.trained(run, DINO), at=moment())
    await world.reaches(run, "Training", saying="the trainer has ended, but istio-proxy still runs in pod")
    await ends_beside(world, pod, 0, outcomes.trained(run, DINO))
    status = await world.reaches(run, "Succeeded", seconds=60)
    assert status["teachers"][0]["adapter"]["uri"] == outcomes.adapter_uri(run, DINO)
    await ended_by_its_node(world, pod)
    await world.gone("jobs", f"{run}-grounding-dino")


async def test_a_permanent_failure_is_reported_and_others_are_tried_again(world: World) -> None:
    run = "meshed-fails"
    await world.create(run)
    await world.inspects(run)
    pod = await world.starts(run)
    await ends_beside(world, pod, 43, outcomes.failure(43, "the store does not answer"))
    await ended_by_its_node(world, pod)
    pod = await world.pod(run, "grounding-dino", besides=[pod["metadata"]["name"]])
    await world.runs(pod)
    await ends_beside(world, pod, 45, outcomes.failure(45, "the loss is NaN"))
    await world.reaches(run, "LossNotFinite", saying="the loss is NaN; istio-proxy still ran after its end")
    await ended_by_its_node(world, pod)
    await world.gone("jobs", f"{run}-grounding-dino")

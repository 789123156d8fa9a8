"""A secret that a run refers to stands in nothing that the operator writes or tells."""

from __future__ import annotations

import base64
import json

import aiohttp
import outcomes
import pytest
from operators import ProcessOperator
from world import World

from engine.spec import TeacherName

pytestmark = [pytest.mark.asyncio, pytest.mark.server_only]

PLANTED = {"AWS_ACCESS_KEY_ID": "AKIAPLANTED000000000", "AWS_SECRET_ACCESS_KEY": "PLANTEDsecretKEY00000000"}
FORMS = [form for value in PLANTED.values() for form in (value, base64.b64encode(value.encode()).decode())]


async def test_a_secret_that_a_run_refers_to_is_written_nowhere(world: World) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": PLANTED}
    await world.api.call("POST", world.path("secrets"), secret)
    for run in ("kept", "planted-fails"):
        await world.create(run, storage={"credentialsSecretRef": {"name": "keys"}})
        await world.inspects(run, outcomes.BOXES)
    await world.trains("kept")
    pod = await world.starts("planted-fails")
    await world.fails(pod, 45, message=outcomes.failure(45, "the loss is nan"))
    await world.reaches("kept", "Succeeded")
    await world.reaches("planted-fails", "LossNotFinite")

    written = {}
    for plural in ("teacherfinetunes", "jobs", "pods", "configmaps", "events", "services"):
        written[plural] = json.dumps(await world.all(plural))
    async with aiohttp.ClientSession() as session:
        for page in ("metrics", "healthz", "readyz"):
            async with session.get(f"http://127.0.0.1:{world.operator.port}/{page}") as answer:
                written[page] = await answer.text()
    if isinstance(world.operator, ProcessOperator):
        written["log"] = world.operator.text()
    assert "credentialsSecretRef" in written["teacherfinetunes"]
    assert '"secretKeyRef"' in written["jobs"]
    assert TeacherName.GROUNDING_DINO.value in written["teacherfinetunes"]
    assert [place for place, text in written.items() if any(form in text for form in FORMS)] == []

"""What runs beside the watches ends when it is asked to."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import AsyncMock

import pytest

from teacher_operator.api.names import Key
from teacher_operator.api.settings import Settings
from teacher_operator.runtime import controller as module
from teacher_operator.runtime.controller import Controller
from teacher_operator.runtime.metrics import Metrics
from teacher_operator.runtime.store import Store

pytestmark = pytest.mark.asyncio


@pytest.fixture
def cluster() -> AsyncMock:
    return AsyncMock()


@pytest.fixture
def controller(cluster: Any) -> Controller:
    settings = Settings(operator_image="operator", trainer_image="trainer", leader_election=False)
    return Controller(cluster, settings, Metrics(Store()), Store())


async def test_it_ends_though_a_task_misses_a_cancellation(
    controller: Controller, cluster: AsyncMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "END_SECONDS", 0.05)
    missed = 0

    async def hard_of_hearing() -> None:
        nonlocal missed
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if missed:
                    raise
                missed += 1

    controller._spawn(hard_of_hearing())
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await controller.stop()
    assert missed == 1
    cluster.close.assert_awaited_once()


async def test_a_task_that_cleans_up_is_left_the_time_for_it(controller: Controller) -> None:
    clean = False

    async def cleans_up() -> None:
        nonlocal clean
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.7)
            clean = True

    controller._spawn(cleans_up())
    await asyncio.sleep(0)
    await controller.stop()
    assert clean


async def test_others_get_their_turn_while_many_objects_are_inspected(controller: Controller) -> None:
    controller.reconciler = AsyncMock()
    controller.reconciler.reconcile.return_value = None  # it asks for nothing, so it waits for nothing
    controller.leadership.held.set()
    for number in range(1000):
        controller.queue.add(Key("default", f"o{number}"))
    for _ in range(10):
        controller._spawn(controller._work())
    turns = 0
    while len(controller.queue):
        await asyncio.sleep(0)
        turns += 1
    await controller.stop()
    assert turns >= 100

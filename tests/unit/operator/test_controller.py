"""What runs beside the watches ends when it is asked to."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import AsyncMock

import pytest

from teacher_operator.controller import Controller
from teacher_operator.metrics import Metrics
from teacher_operator.settings import Settings
from teacher_operator.store import Store

pytestmark = pytest.mark.asyncio


async def test_it_ends_though_a_task_misses_a_cancellation() -> None:
    settings = Settings(operator_image="operator", trainer_image="trainer", leader_election=False)
    cluster: Any = AsyncMock()
    controller = Controller(cluster, settings, Metrics(Store()), Store())
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

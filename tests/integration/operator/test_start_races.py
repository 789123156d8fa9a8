"""No run is lost since one of its pods was stopped while it started."""

from __future__ import annotations

import os
from collections import Counter

import pytest
from start_races import MOMENTS, WAYS, Race, Races
from world import World

pytestmark = pytest.mark.asyncio

ALL, AT_A_TIME = 1000, 100
PLAYED = int(os.environ.get("START_RACES", "200"))
"""Races of the slow test; all of them take nine minutes in memory and twenty on a real API server."""


@pytest.mark.memory_only  # a Job on a real API server waits 10 s before it makes the next pod
async def test_some_of_a_thousand_start_races_on_a_faster_clock(world: World) -> None:
    numbers = range(3, ALL, 41)
    races = Races(world, [Race.of(number) for number in numbers], scale=0.2)
    await races.play(seconds=60)
    assert races.lost == {}
    assert races.asked == len(numbers)


@pytest.mark.slow
@pytest.mark.timeout(5400)
async def test_start_races_lose_no_run(world: World) -> None:
    numbers = [7 * count % ALL for count in range(min(PLAYED, ALL))]  # 7 and ALL have no common factor: all differ
    assert len(set(numbers)) == len(numbers) > 0
    stopped = 0
    for first in range(0, len(numbers), AT_A_TIME):
        races = Races(world, [Race.of(number) for number in numbers[first : first + AT_A_TIME]])
        await races.play(seconds=300)
        assert races.lost == {}
        stopped += races.stopped
        print(f"{first + len(races.races)} races, {stopped} containers stopped, 0 runs lost", flush=True)


async def test_each_moment_has_each_way_to_be_stopped() -> None:
    races = [Race.of(number) for number in range(ALL)]
    assert set(Counter((round(race.at, 1), race.way) for race in races).values()) == {ALL // MOMENTS // len(WAYS)}
    assert len({(race.code, race.left, race.way, race.part) for race in races}) == 7 * 3 * len(WAYS) * 2

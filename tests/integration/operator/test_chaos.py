"""The operator, its API server and the network between them break at random, while runs of every kind go on."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import control_plane as real
import pytest
import pytest_asyncio
from chaos import Chaos
from faulty_api import FaultyApi
from operators import ProcessOperator
from places import OPERATOR, admin, install, make_namespace, token_of
from world import World

pytestmark = [pytest.mark.asyncio, pytest.mark.slow, pytest.mark.timeout(1500)]

RUNS, KILLS = int(os.environ.get("CHAOS_RUNS", "100")), int(os.environ.get("CHAOS_KILLS", "50"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))


@pytest.fixture
def plane(tmp_path: Path) -> object:
    """A control plane of its own, since it is broken."""
    if real.missing():
        pytest.skip(real.missing())
    plane = real.ControlPlane.start(tmp_path)
    install(plane)
    yield plane
    plane.stop()


@pytest_asyncio.fixture
async def world(plane: real.ControlPlane, tmp_path: Path) -> AsyncIterator[World]:
    """A namespace without an operator; nodes whose logs nobody asks for."""
    await make_namespace(plane, "chaos")
    async with admin(plane) as api:
        await api.call("POST", "api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}})
        yield World(api, "chaos", _Nobody(), "api-server", {}, patience=120)


class _Nobody:
    port = 0

    async def start(self) -> None: ...
    async def kill(self) -> None: ...
    async def stop(self) -> None: ...


def operator_of(plane: real.ControlPlane, folder: Path, *, url: str = "", name: str = "operator") -> ProcessOperator:
    access = plane.access
    token = token_of(plane, OPERATOR, OPERATOR)
    given = real.Access(url or access.url, "" if url else access.authority, token)
    return ProcessOperator(
        given.kubeconfig(folder / f"{name}.kubeconfig"), folder / f"{name}.log", namespaces=("chaos",), pod_name=name
    )


async def test_an_operator_that_is_killed_all_the_time(plane: real.ControlPlane, world: World, tmp_path: Path) -> None:
    operator, rng = operator_of(plane, tmp_path), random.Random(SEED)
    chaos = Chaos(world, count=RUNS, seed=SEED, every=1.2)

    async def kill() -> None:
        for _ in range(KILLS):
            await operator.start()
            await asyncio.sleep(rng.uniform(0, 2))
            await operator.kill()
        await operator.start()

    try:
        await chaos.play(kill)
    finally:
        await operator.kill()
        print(f"{KILLS} kills: {chaos.summary()}")
    assert not chaos.wrong
    assert "this should not happen" not in operator.text()


async def test_an_api_server_that_refuses_and_a_network_that_loses(
    plane: real.ControlPlane, world: World, tmp_path: Path
) -> None:
    chaos = Chaos(world, count=RUNS // 2, seed=SEED)
    async with FaultyApi(plane.access, rate=0.1, seed=SEED).served() as proxy:
        operator = operator_of(plane, tmp_path, url=proxy.url)
        try:
            await operator.start()
            await chaos.play()
        finally:
            await operator.kill()
            print(f"{sum(proxy.faults.values())} faults, {dict(proxy.faults)}: {chaos.summary()}")
    assert not chaos.wrong
    assert "this should not happen" not in operator.text()


async def test_a_control_plane_that_goes_away_and_comes_back(
    plane: real.ControlPlane, world: World, tmp_path: Path
) -> None:
    operator, rng = operator_of(plane, tmp_path), random.Random(SEED)
    chaos = Chaos(world, count=RUNS // 2, seed=SEED)
    broken: list[str] = []

    async def break_it() -> None:
        for _ in range(3):
            await asyncio.sleep(rng.uniform(2, 6))
            broken.append("API server killed")
            await asyncio.to_thread(plane.restart, "kube-apiserver")
            await asyncio.sleep(rng.uniform(8, 12))
            etcd = plane.process("etcd")
            for _ in range(4):
                broken.append("etcd stopped for a while")
                etcd.send_signal(signal.SIGSTOP)
                await asyncio.sleep(rng.uniform(1, 4))
                etcd.send_signal(signal.SIGCONT)
                await asyncio.sleep(1)
            broken.append("etcd killed")
            await asyncio.to_thread(plane.restart, "etcd")
            await asyncio.sleep(rng.uniform(3, 6))
            if plane.process("kube-controller-manager").poll() is not None:
                await asyncio.to_thread(plane.restart, "kube-controller-manager")

    try:
        await operator.start()
        await chaos.play(break_it)
    finally:
        await operator.kill()
        print(f"{len(broken)} times broken: {chaos.summary()}")
    assert not chaos.wrong
    assert "this should not happen" not in operator.text()


async def test_two_operators_of_which_one_sleeps_now_and_then(
    plane: real.ControlPlane, world: World, tmp_path: Path
) -> None:
    """One that wakes up acts on what it knew before; nothing rests on there being one."""
    operators, rng = [operator_of(plane, tmp_path, name=name) for name in ("first", "second")], random.Random(SEED)
    chaos = Chaos(world, count=RUNS // 2, seed=SEED)
    naps = 0

    async def nap() -> None:
        nonlocal naps
        for _ in range(20):
            one = rng.choice(operators)
            one.signal(signal.SIGSTOP)
            await asyncio.sleep(rng.uniform(0.5, 3))
            one.signal(signal.SIGCONT)
            naps += 1
            await asyncio.sleep(rng.uniform(0, 1))

    try:
        for one in operators:
            await one.start()
        await chaos.play(nap)
    finally:
        for one in operators:
            await one.kill()
        print(f"{naps} naps of two operators: {chaos.summary()}")
    assert not chaos.wrong


CLOCK = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


@pytest.mark.skipif(not CLOCK.exists(), reason="faketime is not installed")
async def test_a_clock_that_jumps_by_an_hour(plane: real.ControlPlane, world: World, tmp_path: Path) -> None:
    operator, rng = operator_of(plane, tmp_path), random.Random(SEED)
    offset = tmp_path / "offset"
    offset.write_text("+0")
    operator.environment |= {
        "LD_PRELOAD": str(CLOCK),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    chaos = Chaos(world, count=RUNS // 2, seed=SEED)
    jumps = 0

    async def jump() -> None:
        nonlocal jumps
        for _ in range(12):
            await asyncio.sleep(rng.uniform(1, 4))
            offset.write_text(rng.choice(["+3600", "-3600", "+0", "+86400"]))
            jumps += 1

    try:
        await operator.start()
        await chaos.play(jump)
    finally:
        await operator.kill()
        print(f"{jumps} jumps of the clock: {chaos.summary()}")
    assert not chaos.wrong

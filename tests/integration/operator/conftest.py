"""One place for the scenarios: a real API server with real controllers where its binaries exist, else one in memory.

The real one is a control plane that all tests share; the operator is a process with the rights that the chart gives it
and no others. It needs etcd, kube-apiserver, kube-controller-manager and kubectl in KUBEBUILDER_ASSETS or its default
folder. The API in memory runs the operator in the test's own process.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import control_plane as real
import pytest
import pytest_asyncio
from kubelet import LogServer
from operators import ProcessOperator
from places import (
    MEMORY,
    OPERATOR,
    SERVER,
    NewWorld,
    admin,
    check_log,
    install,
    make_namespace,
    memory_worlds,
    run_plainly,
    server_worlds,
    token_of,
)
from world import MERGE, World


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "lengthy: slow on a real API server")
    config.addinivalue_line("markers", "memory_only: needs faults that only the API in memory can be given")
    config.addinivalue_line("markers", "server_only: tests what only a real API server does")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Choose one tier for a test: the real API server where its binaries exist, otherwise the API in memory."""
    if "tier" in metafunc.fixturenames:
        marks = {mark.name for mark in metafunc.definition.iter_markers()}
        memory = "memory_only" in marks or ("server_only" not in marks and real.missing())
        metafunc.parametrize("tier", [MEMORY if memory else SERVER], indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        tier = getattr(item, "callspec", None) and item.callspec.params.get("tier")
        if tier == SERVER and item.get_closest_marker("lengthy"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def tier(request: pytest.FixtureRequest) -> str:
    if request.param == SERVER and real.missing():
        pytest.skip(real.missing())
    return str(request.param)


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[real.ControlPlane]:
    """A control plane with the operator's manifests applied; one for all processes of pytest-xdist."""
    if real.missing():
        pytest.skip(real.missing())
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (shared / "control-plane.lock").open("w") as starting, (shared / "control-plane.users").open("w") as using:
        fcntl.flock(starting, fcntl.LOCK_EX)
        found = shared / "control-plane.json"
        if found.exists():
            told = json.loads(found.read_text())
            plane, mine = real.ControlPlane(Path(told["folder"]), real.Access(**told["access"])), False
        else:
            plane, mine = real.ControlPlane.start(tmp_path_factory.mktemp("control-plane")), True
            try:
                install(plane)
            except BaseException:
                plane.stop()
                raise
            found.write_text(json.dumps({"folder": str(plane.folder), "access": vars(plane.access)}))
        fcntl.flock(using, fcntl.LOCK_SH)
        fcntl.flock(starting, fcntl.LOCK_UN)
        try:
            yield plane
        finally:
            fcntl.flock(using, fcntl.LOCK_UN)
            if mine:
                fcntl.flock(starting, fcntl.LOCK_EX)
                found.unlink()
                fcntl.flock(starting, fcntl.LOCK_UN)
                fcntl.flock(using, fcntl.LOCK_EX)  # until nobody uses it any more
                plane.stop()


@pytest.fixture(scope="session")
def operator_kubeconfig(control_plane: real.ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Access with the rights that the installation gives the operator."""
    access = real.Access(
        control_plane.access.url, control_plane.access.authority, token_of(control_plane, OPERATOR, OPERATOR)
    )
    return access.kubeconfig(tmp_path_factory.mktemp("operator") / "kubeconfig")


@pytest.fixture(scope="session")
def kubelet(
    control_plane: real.ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LogServer, str]]:
    """Serves the logs of a node; the server and the node's name."""
    server = LogServer(tmp_path_factory.mktemp("kubelet"))
    node = f"node-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}}
    status = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": server.port}},
    }

    async def register() -> None:
        async with admin(control_plane) as api:
            await api.call("POST", "api/v1/nodes", body)
            await api.call("PATCH", f"api/v1/nodes/{node}/status", {"status": status}, content=MERGE)

    run_plainly(register())
    yield server, node
    server.close()


@pytest.fixture(scope="session")
def shared_operator(
    control_plane: real.ControlPlane, operator_kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ProcessOperator, str]]:
    """One operator for all scenarios that leave it alone, and the namespace that it watches."""
    namespace = f"scenarios-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
    run_plainly(make_namespace(control_plane, namespace))
    log = tmp_path_factory.mktemp("operator") / "operator.log"
    operator = ProcessOperator(operator_kubeconfig, log, namespaces=(namespace,))
    operator.launch()
    run_plainly(operator.ready())
    yield operator, namespace
    operator.end(signal.SIGTERM)
    check_log(operator)


@pytest_asyncio.fixture
async def new_world(tier: str, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[NewWorld]:
    """Worlds with operators that the test may kill; all are ended with it."""
    async with contextlib.AsyncExitStack() as stack:
        if tier == MEMORY:
            yield await memory_worlds(stack, tmp_path)
        else:
            yield await server_worlds(stack, tmp_path, request)


@pytest_asyncio.fixture
async def world(tier: str, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """A world whose operator is left alone."""
    if tier == MEMORY:
        async with contextlib.AsyncExitStack() as stack:
            yield await (await memory_worlds(stack, request.getfixturevalue("tmp_path")))()
        return
    operator, namespace = request.getfixturevalue("shared_operator")
    server, node = request.getfixturevalue("kubelet")
    async with admin(request.getfixturevalue("control_plane")) as api:
        yield World(api, namespace, operator, tier, server.logs, node=node, patience=60)

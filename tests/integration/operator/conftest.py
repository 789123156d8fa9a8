"""Two places for the same scenarios: an API in memory, and a real API server with real controllers.

The first is quick and runs the operator in the test's own process. The second is a control plane that all tests share;
the operator is a process with the rights that the chart gives it and no others. It wants etcd, kube-apiserver,
kube-controller-manager and kubectl in KUBEBUILDER_ASSETS or its default folder; tests are skipped where they are not.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import control_plane as real
import helm_python
import kmock
import pytest
import pytest_asyncio
from job_controller import JobController
from kubelet import LogServer
from memory_api import MemoryApi, refusal
from operators import ProcessOperator, ThreadOperator
from world import MERGE, MINE, Api, World

ROOT = Path(__file__).parents[3]
CRD = "teacherfinetunes.finetune.dev"
OPERATOR = "teacher-finetune"
"""Of the installation: namespace, service account in it, and Lease."""

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
MEMORY, SERVER = "memory", "api-server"

KINDS_WATCHED = ("TeacherFineTune", "Job", "Pod")

NewWorld = Callable[..., Awaitable[World]]
"""Makes a world with an operator of its own; arguments are settings of the operator."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "lengthy: slow on a real API server")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        tier = getattr(item, "callspec", None) and item.callspec.params.get("tier")
        if tier == SERVER and item.get_closest_marker("lengthy"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(params=[MEMORY, SERVER])
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
                _install(plane)
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


def _install(plane: real.ControlPlane) -> None:
    """What the chart holds, with rights over a Lease too; nothing runs its Deployment here."""
    made = plane.kubectl("create", "namespace", OPERATOR)
    assert made.returncode == 0, made.stderr
    done = plane.kubectl("apply", "--server-side", "-f", "-", stdin=chart({"leaderElection": {"enabled": True}}))
    assert done.returncode == 0, done.stderr
    for awaited in (["create", "serviceaccount/default"], ["condition=Established", f"crd/{CRD}"]):
        done = plane.kubectl("wait", f"--for={awaited[0]}", awaited[1], "-n", OPERATOR, "--timeout=60s")
        assert done.returncode == 0, done.stderr


def chart(values: dict[str, Any]) -> str:
    """The objects of the chart, but for those of its test, as helm would install them."""
    with helm_python.Chart.load(ROOT / "helm" / "teacher-finetune") as loaded:
        rendered = loaded.render(values, name=OPERATOR, namespace=OPERATOR)
    return "\n---\n".join(text for path, text in rendered.items() if path.endswith(".yaml") and "/tests/" not in path)


def token_of(plane: real.ControlPlane, account: str, namespace: str) -> str:
    """A token of a service account, as pods get it."""
    done = plane.kubectl("create", "token", account, "-n", namespace, "--duration=24h")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


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


def run_plainly(work: Coroutine[Any, Any, None]) -> None:
    """From a fixture that an asynchronous one asks for: in a loop of its own, in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()


@contextlib.asynccontextmanager
async def admin(plane: real.ControlPlane) -> AsyncIterator[Api]:
    headers = {"Authorization": f"Bearer {plane.access.token}"}
    connector = aiohttp.TCPConnector(ssl=plane.access.context() or True)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        yield Api(session, plane.access.url)


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


async def make_namespace(plane: real.ControlPlane, name: str) -> None:
    async with admin(plane) as api:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}}
        await api.call("POST", "api/v1/namespaces", body)
        deadline = asyncio.get_running_loop().time() + 60
        while True:  # pods need it
            accounts = await api.call("GET", f"api/v1/namespaces/{name}/serviceaccounts")
            if accounts["items"]:
                return
            assert asyncio.get_running_loop().time() < deadline, f"no service account in {name}"
            await asyncio.sleep(0.05)


def check_log(operator: ProcessOperator) -> None:
    """Nothing unforeseen happened."""
    text = operator.text()
    at = max(text.find("Traceback"), text.find("this should not happen"))
    assert at < 0, text[max(0, at - 500) : at + 3000]


@pytest_asyncio.fixture
async def new_world(tier: str, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[NewWorld]:
    """Worlds with operators that the test may kill; all are ended with it."""
    async with contextlib.AsyncExitStack() as stack:
        if tier == MEMORY:
            yield await _memory(stack, tmp_path)
        else:
            yield await _server(stack, tmp_path, request)


@pytest_asyncio.fixture
async def world(tier: str, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """A world whose operator is left alone."""
    if tier == MEMORY:
        async with contextlib.AsyncExitStack() as stack:
            yield await (await _memory(stack, request.getfixturevalue("tmp_path")))()
        return
    operator, namespace = request.getfixturevalue("shared_operator")
    server, node = request.getfixturevalue("kubelet")
    async with admin(request.getfixturevalue("control_plane")) as api:
        yield World(api, namespace, operator, tier, server.logs, node=node, patience=60)


async def _memory(stack: contextlib.AsyncExitStack, folder: Path) -> NewWorld:
    api = await stack.enter_async_context(MemoryApi())
    server = await stack.enter_async_context(kmock.Server(api))
    stack.callback(api.objects.close)
    controller = asyncio.create_task(JobController(api.objects).run())
    stack.callback(lambda: controller.result() if controller.done() else controller.cancel())
    session = await stack.enter_async_context(aiohttp.ClientSession())
    url = str(server.url).rstrip("/")
    kubeconfig = real.Access(url, "", "token").kubeconfig(folder / "kubeconfig")
    mark, value = next(iter(MINE.items()))

    def theirs(request: kmock.Request) -> bool:
        return request.headers.get(mark) != value

    def sever(broken: bool) -> None:
        severed = refusal(503, "ServiceUnavailable", "killed")
        api.refuse = (lambda request: severed if theirs(request) else None) if broken else (lambda _: None)

    async def make(*, start: bool = True, **settings: Any) -> World:
        operator = ThreadOperator(kubeconfig, sever, **settings)
        stack.push_async_callback(operator.stop)
        namespace = (settings.get("namespaces") or ("team",))[0]
        world = World(Api(session, url), namespace, operator, MEMORY, api.logs, memory=api)
        if start:
            await operator.start()
            watches = len(KINDS_WATCHED) * max(1, len(operator.namespaces))
            await world.until(lambda: _watched(api, watches), "all watches are open")
        return world

    return make


async def _watched(api: MemoryApi, count: int) -> bool:
    return sum(request.params.get("watch") == "true" for request in api) >= count


async def _server(stack: contextlib.AsyncExitStack, folder: Path, request: pytest.FixtureRequest) -> NewWorld:
    plane: real.ControlPlane = request.getfixturevalue("control_plane")
    kubeconfig: Path = request.getfixturevalue("operator_kubeconfig")
    server, node = request.getfixturevalue("kubelet")
    api = await stack.enter_async_context(admin(plane))

    async def make(*, start: bool = True, **settings: Any) -> World:
        namespaces = settings.pop("namespaces", None) or (f"world-{uuid.uuid4().hex[:8]}",)
        for namespace in namespaces:
            with contextlib.suppress(Exception):
                await make_namespace(plane, namespace)
        number = len(list(folder.glob("operator*.log")))
        operator = ProcessOperator(kubeconfig, folder / f"operator-{number}.log", namespaces=namespaces, **settings)
        stack.callback(check_log, operator)
        stack.push_async_callback(operator.kill)
        world = World(api, namespaces[0], operator, SERVER, server.logs, node=node, patience=60)
        if start:
            await operator.start()
        return world

    return make

"""Where scenarios take place, and what makes worlds there."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import control_plane as real
import helm_python
import kmock
import pytest
from job_controller import JobController
from memory_api import MemoryApi, refusal
from operators import ProcessOperator, ThreadOperator
from world import MINE, Api, World

ROOT = Path(__file__).parents[3]
OPERATOR = "teacher-finetune"
"""Of the installation: namespace, service account in it, and Lease."""

EVERYTHING = {
    "leaderElection": {"enabled": True},
    "metrics": {"authentication": {"enabled": True}},
    "runNetworkPolicy": {"enabled": True},
}
"""Values of the chart with which the operator has every right that it may have."""

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
MEMORY, SERVER = "memory", "api-server"

KINDS_WATCHED = ("TeacherFineTune", "Job", "Pod")

NewWorld = Callable[..., Awaitable[World]]
"""Makes a world with an operator of its own; arguments are settings of the operator."""


def install(plane: real.ControlPlane, controllers: Sequence[str] = real.CONTROLLERS, flags: Sequence[str] = ()) -> None:
    """Install what the chart holds, with all rights that it can give; nothing runs its Deployment here.

    ``controllers`` and ``flags`` are those of the controller manager, which is started.
    """
    made = plane.kubectl("create", "namespace", OPERATOR)
    assert made.returncode == 0, made.stderr
    done = plane.kubectl("apply", "--server-side", "-f", "-", stdin=chart(EVERYTHING))
    assert done.returncode == 0, done.stderr
    deadline = time.monotonic() + 60
    while plane.kubectl("get", "tft", "-n", OPERATOR).returncode != 0:
        assert time.monotonic() < deadline, "the API server does not serve what the CRD defines"
        shutil.rmtree(plane.folder / "cache", ignore_errors=True)  # in which kubectl remembers what there was
        time.sleep(0.1)
    plane.control(controllers, flags)
    done = plane.kubectl("wait", "--for=create", "serviceaccount/default", "-n", OPERATOR, "--timeout=60s")
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


async def memory_worlds(stack: contextlib.AsyncExitStack, folder: Path) -> NewWorld:
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
        stack.push_async_callback(operator.kill)
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


async def server_worlds(stack: contextlib.AsyncExitStack, folder: Path, request: pytest.FixtureRequest) -> NewWorld:
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

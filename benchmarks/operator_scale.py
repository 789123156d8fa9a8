"""How the operator does with many objects, on the API server that KUBECONFIG names (no node has to run anything).

    KUBECONFIG=… python benchmarks/operator_scale.py --objects 1000 --rate 20

Three measurements, with the operator as a process of its own:

- *arrivals*: objects whose inspection is ready are let go at a rate; time from that to their GPU Job in a watch;
- *restart*: the operator starts again with all of them there; time until it has looked at every one;
- *backlog*: as many again are let go while no operator runs; objects a second until every one has its Job.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from kubernetes.aio import client

from teacher_operator.api import API_VERSION, GROUP, KIND, PLURAL, VERSION
from teacher_operator.cluster import Cluster, connect
from teacher_operator.times import timestamp

CREATORS = 8


def body(name: str, namespace: str) -> dict[str, Any]:
    """An object that asks for nothing special; suspended, so that nothing happens before it is let go."""
    spec = {
        "dataset": {"annotations": "s3://bench/annotations.json", "images": "s3://bench/images/"},
        "output": "s3://bench/adapters/",
        "suspend": True,
    }
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}


def inspected(name: str) -> dict[str, Any]:
    """The status that inspection leaves."""
    uri = f"s3://bench/adapters/{name}/0123456789ab"
    dataset = {
        "digest": "0" * 64,
        "images": 1000,
        "annotations": 5000,
        "masks": 0,
        "hasBoxes": True,
        "hasMasks": False,
        "classCount": 2,
        "classes": ["forklift", "pallet"],
    }
    teacher = {"name": "GroundingDino", "state": "Suspended"}
    return {
        "startTime": timestamp(time.time()),
        "runId": "0123456789ab",
        "uri": uri,
        "configUri": f"{uri}/teacher_config.yaml",
        "dataset": dataset,
        "teachers": [teacher],
    }


class OperatorProcess:
    """The operator, as a process."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        environment = os.environ | {
            "TEACHER_OPERATOR_IMAGE": "operator",
            "TEACHER_TRAINER_IMAGE": "trainer",
            "TEACHER_PORT": str(self.port),
            "TEACHER_LOG_LEVEL": "WARNING",
        }
        self.begun = time.monotonic()
        self._process = subprocess.Popen([sys.executable, "-m", "teacher_operator"], env=environment)

    async def ready(self) -> float:
        """Seconds from its start until it answers."""
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                await self._get("readyz")
                return time.monotonic() - self.begun
            await asyncio.sleep(0.02)

    async def metrics(self) -> dict[str, float]:
        """Its metrics by name and labels."""
        text = await self._get("metrics")
        lines = (re.fullmatch(r"(\S+) (\S+)", line) for line in text.splitlines() if not line.startswith("#"))
        return {found[1]: float(found[2]) for found in lines if found}

    def peak_mb(self) -> float:
        """The most memory that it has had."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]

    def cpu_seconds(self) -> float:
        """CPU time that it has taken."""
        times = psutil.Process(self._process.pid).cpu_times()
        return times.user + times.system

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(30)

    async def _get(self, path: str) -> str:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{self.port}/{path}") as answer:
            return await answer.text()


async def job_events(api: client.ApiClient, namespace: str, seen: dict[str, float]) -> None:
    """Note when the watch shows the GPU Job of each object."""
    path = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    while True:
        query = [("watch", "true"), ("labelSelector", f"{GROUP}/component=trainer"), ("timeoutSeconds", "3600")]
        headers: dict[str, str] = {}
        prepared = await api.param_serialize("GET", path, None, query, headers, auth_settings=["BearerToken"])
        async with api.rest_client.pool_manager.get(prepared[1], headers=prepared[2], timeout=None) as answer:
            async for line in answer.content:
                event = json.loads(line)
                if event["type"] == "ADDED":
                    name = event["object"]["metadata"]["labels"][f"{GROUP}/run"]
                    seen.setdefault(name, time.monotonic())


async def make(cluster: Cluster, names: list[str], namespace: str) -> None:
    """Make objects with a ready inspection."""
    todo = iter(names)

    async def worker() -> None:
        for name in todo:
            made = await cluster.create(KIND, namespace, body(name, namespace))
            await cluster.patch_status(made, inspected(name))

    await asyncio.gather(*(worker() for _ in range(CREATORS)))


async def let_go(api: client.ApiClient, name: str, namespace: str) -> None:
    """Lift the suspension of an object."""
    path = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}/{name}"
    headers = {"Content-Type": "application/merge-patch+json", "Accept": "application/json"}
    prepared = await api.param_serialize(
        "PATCH", path, None, None, headers, body={"spec": {"suspend": False}}, auth_settings=["BearerToken"]
    )
    answer = await api.call_api(*prepared)
    await answer.read()
    assert answer.status == 200, answer.status


async def until(condition: Any, seconds: float = 600) -> float:
    """Wait for a condition; the time at which it held."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return time.monotonic()
        await asyncio.sleep(0.05)
    raise TimeoutError("the operator does not get there")


def writes(metrics: dict[str, float]) -> dict[str, float]:
    """Requests that change something, by verb and resource."""
    found: dict[str, float] = {}
    for key, value in metrics.items():
        match = re.fullmatch(r'teacher_api_requests_total\{code="(\d+)",resource="(\w+)",verb="(\w+)"\}', key)
        if match and match[3] != "GET":
            found[f"{match[3]} {match[2]}"] = found.get(f"{match[3]} {match[2]}", 0) + value
    return found


async def measure(objects: int, rate: float, namespace: str) -> dict[str, Any]:
    """All three measurements."""
    api = await connect()
    cluster = Cluster(api)
    await cluster.create("Namespace", "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    seen: dict[str, float] = {}
    watch = asyncio.create_task(job_events(api, namespace, seen))
    result: dict[str, Any] = {"objects": objects, "rate": rate, "load_before": os.getloadavg()}

    arriving = [f"arrive-{index}" for index in range(objects)]
    await make(cluster, arriving, namespace)
    operator = OperatorProcess()
    result["start_up_s"] = await operator.ready()
    await until(lambda: _looked_at(operator, objects))
    before, cpu = writes(await operator.metrics()), operator.cpu_seconds()
    gone: dict[str, float] = {}
    tasks = []
    begun = time.monotonic()
    for index, name in enumerate(arriving):
        await asyncio.sleep(max(0.0, begun + index / rate - time.monotonic()))
        gone[name] = time.monotonic()
        tasks.append(asyncio.create_task(let_go(api, name, namespace)))
    await asyncio.gather(*tasks)
    try:
        await until(lambda: len(seen) == objects, 120)
    finally:
        print(f"{len(seen)} of {objects} have their Jobs", file=sys.stderr)
    delays = sorted(seen[name] - gone[name] for name in arriving)
    await asyncio.sleep(2)
    after = writes(await operator.metrics())
    result["arrivals"] = {
        "p50_s": statistics.median(delays),
        "p95_s": delays[int(0.95 * len(delays))],
        "max_s": delays[-1],
        "writes_per_object": {k: (after[k] - before.get(k, 0)) / objects for k in after},
        "cpu_ms_per_object": 1000 * (operator.cpu_seconds() - cpu) / objects,
        "peak_mb": operator.peak_mb(),
    }
    operator.stop()

    operator = OperatorProcess()
    result["restart"] = {
        "objects": objects,
        "caught_up_s": await until(lambda: _looked_at(operator, objects)) - operator.begun,
        "writes": writes(await operator.metrics()),
        "peak_mb": operator.peak_mb(),
    }
    operator.stop()

    waiting = [f"wait-{index}" for index in range(objects)]
    await make(cluster, waiting, namespace)
    for chunk in range(0, objects, 50):
        await asyncio.gather(*(let_go(api, name, namespace) for name in waiting[chunk : chunk + 50]))
    operator = OperatorProcess()
    await until(lambda: len(seen) == 2 * objects)
    times = sorted(seen[name] for name in waiting)
    result["backlog"] = {
        "objects_per_s": (len(times) - 1) / (times[-1] - times[0]),
        "from_start_s": times[-1] - operator.begun,
        "peak_mb": operator.peak_mb(),
    }
    await asyncio.sleep(3)
    operator.stop()

    result["load_after"] = os.getloadavg()
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
    await cluster.close()
    return result


async def _looked_at(operator: OperatorProcess, objects: int) -> bool:
    """Whether the operator has looked at this many objects and has no more to do."""
    with contextlib.suppress(aiohttp.ClientError):
        metrics = await operator.metrics()
        looks = metrics.get('teacher_reconcile_seconds_count{outcome="ok"}', 0)
        return looks >= objects and metrics["teacher_queue_depth"] == 0
    return False


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=20, help="arrivals a second")
    parser.add_argument("--namespace", default=f"bench-{int(time.time())}")
    arguments = parser.parse_args()
    result = asyncio.run(measure(arguments.objects, arguments.rate, arguments.namespace))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

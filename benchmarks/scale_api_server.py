"""API server for ``operator_scale.py``: start it, create and watch objects, and read its request counters."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from control_plane import ControlPlane, missing
from kubernetes.aio import client
from kubernetes.aio.config import kube_config

from teacher_operator.runtime.cluster import connect

WRITES = {"POST", "PUT", "PATCH", "APPLY", "DELETE"}
SERIES = re.compile(r"^apiserver_request_total\{(.*)\} (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')
ASIDE = {"", "leases"}
"""Resources that are not counted: requests without a resource, and leader election."""

Requests = Counter[str]
"""Number of requests by verb and resource, such as ``PATCH teacherfinetunes/status``."""


@dataclass
class Api:
    """One namespace of an API server.

    Attributes:
        raw: API client.
        namespace: Namespace, inserted into paths.
        seen: Time at which the watch reported the first child of an object, by the object's name.
    """

    raw: client.ApiClient
    namespace: str
    seen: dict[str, float] = field(default_factory=dict)

    async def call(self, verb: str, path: str, body: Any = None, content: str = "application/json") -> str:
        """Send a request; raise RuntimeError with the API server's message if it fails."""
        headers = {"Content-Type": content, "Accept": "application/json"}
        prepared = await self.raw.param_serialize(
            verb, path.format(namespace=self.namespace), None, None, headers, body=body, auth_settings=["BearerToken"]
        )
        answer = await self.raw.call_api(*prepared)
        text: str = (await answer.read()).decode()
        if answer.status >= 400:
            raise RuntimeError(f"{verb} {path}: {text[:500]}")
        return text

    async def requests(self) -> Requests:
        """Count the requests so far, without those of Kubernetes' own components."""
        counted: Requests = Counter()
        for labels, number in SERIES.findall(await self.call("GET", "/metrics")):
            one = dict(LABEL.findall(labels))
            if one["resource"] not in ASIDE and not one.get("system_client"):
                sub = f"/{one['subresource']}" if one["subresource"] else ""
                counted[f"{one['verb']} {one['resource']}{sub}"] += int(float(number))
        return counted

    async def watch(self, path: str, selector: str) -> None:
        """Record the time at which the first child of each object appears, until cancelled."""
        query = [("watch", "true"), ("timeoutSeconds", "36000"), *([("labelSelector", selector)] if selector else [])]
        headers: dict[str, str] = {}
        prepared = await self.raw.param_serialize(
            "GET", path.format(namespace=self.namespace), None, query, headers, auth_settings=["BearerToken"]
        )
        pool, timeout = self.raw.rest_client.pool_manager, aiohttp.ClientTimeout(total=None)
        async with pool.get(prepared[1], headers=prepared[2], timeout=timeout) as answer:
            async for line in answer.content:
                event = json.loads(line)
                if event["type"] == "ADDED":
                    owner = event["object"]["metadata"]["ownerReferences"][0]["name"]
                    self.seen.setdefault(owner, time.monotonic())

    async def served(self, *paths: str) -> None:
        """Wait until newly defined kinds are served."""
        for path in paths:
            while True:
                with contextlib.suppress(RuntimeError):
                    await self.call("GET", path)
                    break
                await asyncio.sleep(0.2)


def writes(counts: Requests) -> dict[str, int]:
    """Select the requests that write."""
    return {kind: count for kind, count in sorted(counts.items()) if kind.split()[0] in WRITES and count}


@contextlib.contextmanager
def cluster(folder: Path, *, controllers: bool) -> Iterator[Path]:
    """Yield the kubeconfig of a cluster: that of KUBECONFIG, otherwise a temporary cluster."""
    if "KUBECONFIG" in os.environ:
        yield Path(os.environ["KUBECONFIG"])
        return
    if missing():
        raise SystemExit(missing())
    folder.mkdir(parents=True)
    plane = ControlPlane.start(folder)
    try:
        if controllers:
            plane.control()
        yield plane.kubeconfig
    finally:
        plane.stop()


@contextlib.asynccontextmanager
async def connected(kubeconfig: Path) -> AsyncIterator[Api]:
    """Yield an API client with a new namespace."""
    kube_config.KUBE_CONFIG_DEFAULT_LOCATION = str(kubeconfig)
    api = Api(await connect(), f"bench-{time.time_ns() // 10**6}")
    try:
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": api.namespace}}
        await api.call("POST", "/api/v1/namespaces", namespace)
        yield api
    finally:
        await api.raw.close()

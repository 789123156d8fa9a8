"""A proxy before an API server that answers wrongly now and then: between it and an operator, all that a network and a
busy API server do.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

import aiohttp
from aiohttp import web
from control_plane import Access
from ports import free_port

BEFORE = {
    "409": HTTPStatus.CONFLICT,
    "429": HTTPStatus.TOO_MANY_REQUESTS,
    "500": HTTPStatus.INTERNAL_SERVER_ERROR,
    "503": HTTPStatus.SERVICE_UNAVAILABLE,
    "504": HTTPStatus.GATEWAY_TIMEOUT,
}
"""The request never arrives."""

WATCHES = 8
"""There are few watches, and each lasts: so much more often are they broken off."""

KINDS = [*BEFORE, "lost answer", "reset", "slow"]
GONE = (
    b'{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410}}\n'
)
NOT_PASSED_ON = {"host", "content-length", "transfer-encoding", "connection", "accept-encoding"}


class FaultyApi:
    """Forwards to an API server.

    Args:
        upstream: The API server; whose token requests carry is left as it is.
        rate: Share of the requests that meet a fault, and of the watches that are broken off.
        seed: Of what happens.

    Attributes:
        url: Where it listens.
        faults: How often each kind has happened.
    """

    def __init__(self, upstream: Access, *, rate: float, seed: int) -> None:
        self.upstream, self.rate, self.random = upstream, rate, random.Random(seed)
        self.faults: Counter[str] = Counter()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def served(self) -> AsyncIterator[FaultyApi]:
        connector = aiohttp.TCPConnector(ssl=self.upstream.context() or True, limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as self.session:
            app = web.Application(client_max_size=1 << 30)
            app.router.add_route("*", "/{path:.*}", self._handle)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", self.port).start()
            try:
                yield self
            finally:
                self.rate = 0.0
                await runner.cleanup()

    def _fault(self, request: web.Request, *, watch: bool) -> str:
        if self.random.random() >= (WATCHES * self.rate if watch else self.rate):
            return ""
        kinds = ["cut", "gone", "held back"] if watch else KINDS
        kind = self.random.choice(kinds)
        if kind == "409" and request.method == "GET":
            kind = "429"
        self.faults[kind] += 1
        return kind

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        watch = request.query.get("watch") in {"true", "1"}
        body, fault = await request.read(), self._fault(request, watch=watch)
        if fault in BEFORE:
            status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "injected"}
            headers = {"Retry-After": "1"} if fault == "429" else {}
            return web.json_response(status | {"code": BEFORE[fault]}, status=BEFORE[fault], headers=headers)
        if fault == "reset":
            return self._reset(request)
        if fault == "slow":
            await asyncio.sleep(self.random.uniform(1, 5))
        headers = {name: value for name, value in request.headers.items() if name.lower() not in NOT_PASSED_ON}
        try:
            async with self.session.request(
                request.method, f"{self.upstream.url}{request.path_qs}", data=body or None, headers=headers
            ) as answer:
                if fault == "lost answer":
                    await answer.read()
                    return self._reset(request)
                passed = {n: v for n, v in answer.headers.items() if n.lower() not in NOT_PASSED_ON}
                if not watch:
                    return web.Response(body=await answer.read(), status=answer.status, headers=passed)
                return await self._stream(request, answer, passed, fault)
        except aiohttp.ClientError:
            return self._reset(request)

    async def _stream(
        self, request: web.Request, answer: aiohttp.ClientResponse, headers: dict[str, str], fault: str
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=headers)
        await response.prepare(request)
        left = self.random.randrange(1, 30) if fault else -1
        async for line in answer.content:
            if left == 0:
                if fault == "cut":
                    return self._reset(request)
                if fault == "gone":
                    await response.write(GONE)
                    return response
                await asyncio.sleep(self.random.uniform(2, 10))
            left -= 1
            try:
                await response.write(line)
            except ConnectionError:
                break
        return response

    def _reset(self, request: web.Request) -> web.Response:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

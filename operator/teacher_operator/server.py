"""What the operator answers over HTTP: /metrics, /healthz, /readyz."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from teacher_operator.metrics import Metrics

Health = Callable[[], tuple[bool, dict[str, Any]]]
"""Whether all is well, with the details."""


async def serve(port: int, *, metrics: Metrics, alive: Health, ready: Health) -> web.AppRunner:
    """Start to answer; the caller cleans the runner up."""

    def page(health: Health) -> Callable[[web.Request], Any]:
        async def answer(_: web.Request) -> web.Response:
            well, details = health()
            return web.json_response(details, status=200 if well else 503)

        return answer

    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    app = web.Application()
    app.router.add_get("/metrics", show_metrics)
    app.router.add_get("/healthz", page(alive))
    app.router.add_get("/readyz", page(ready))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner

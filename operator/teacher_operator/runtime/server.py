"""What the operator answers over HTTP: /metrics, /healthz, /readyz."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from aiohttp import web

from teacher_operator.runtime.metrics import Metrics
from teacher_operator.runtime.metrics_access import MetricsAccess

Health = Callable[[], tuple[bool, dict[str, Any]]]
"""Whether all is well, with the details. Only the log has these: the page is open to everybody who reaches the port."""

CERTIFICATE, KEY = "tls.crt", "tls.key"
"""As in a Secret of type kubernetes.io/tls."""

RELOAD_SECONDS = 60.0
"""Between two looks whether the certificate was renewed."""

logger = logging.getLogger("teacher_operator")


async def serve(
    port: int,
    *,
    metrics: Metrics,
    alive: Health,
    ready: Health,
    access: MetricsAccess | None = None,
    tls: Path | None = None,
) -> web.AppRunner:
    """Start to answer; the caller cleans the runner up.

    Args:
        port: To listen on.
        metrics: The page of metrics.
        alive: Whether a restart would not help.
        ready: Whether it works.
        access: Says who may read the metrics; None: everybody.
        tls: Folder with the certificate and key to speak TLS with; None: plain HTTP.

    Raises:
        OSError: The port is taken, or the certificate cannot be read.
    """

    def page(name: str, health: Health) -> Callable[[web.Request], Any]:
        was_well = True

        async def answer(_: web.Request) -> web.Response:
            nonlocal was_well
            well, details = health()
            if was_well and not well:
                logger.warning("%s fails: %s", name, details)
            was_well = well
            status = HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
            return web.json_response({"status": "ok" if well else "failing"}, status=status)

        return answer

    async def show_metrics(request: web.Request) -> web.Response:
        status = HTTPStatus.OK if access is None else await access.check(request.headers.get("Authorization"))
        if status is not HTTPStatus.OK:
            asked = {"WWW-Authenticate": "Bearer"} if status is HTTPStatus.UNAUTHORIZED else {}
            return web.Response(status=status, text=f"{status.phrase}\n", headers=asked)
        return web.Response(body=metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def hide_versions(_: web.Request, response: web.StreamResponse) -> None:
        response.headers["Server"] = "teacher-operator"

    app = web.Application()
    app.on_response_prepare.append(hide_versions)
    app.router.add_get("/metrics", show_metrics)
    app.router.add_get("/healthz", page("/healthz", alive))
    app.router.add_get("/readyz", page("/readyz", ready))
    context = None
    if tls is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tls / CERTIFICATE, tls / KEY)
        app.cleanup_ctx.append(_renewing(context, tls))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port, ssl_context=context).start()
    return runner


def _renewing(context: ssl.SSLContext, folder: Path) -> Callable[[web.Application], AsyncIterator[None]]:
    """Return what keeps the certificate of a server as new as its files."""

    async def renew() -> None:
        loaded = (folder / CERTIFICATE).stat().st_mtime_ns
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            try:
                newest = (folder / CERTIFICATE).stat().st_mtime_ns
                if newest != loaded:
                    context.load_cert_chain(folder / CERTIFICATE, folder / KEY)
                    loaded = newest
            except OSError as error:  # halfway through being replaced: read again later
                logger.warning("the renewed certificate in %s cannot be read: %s", folder, error)

    async def while_serving(_: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(renew())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    return while_serving

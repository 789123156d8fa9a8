"""HTTP server of the operator: /metrics, /healthz, /readyz."""

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
"""Health with details. The details are only logged: everyone who reaches the port can read the page."""

CERTIFICATE, KEY = "tls.crt", "tls.key"
"""File names as in a Secret of type kubernetes.io/tls."""

RELOAD_SECONDS = 60.0
"""Seconds between two checks for a renewed certificate."""

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
    """Start the server; the caller cleans up the runner.

    Args:
        port: Port to listen on.
        metrics: Returns the page of metrics.
        alive: Health for the liveness probe: False if a restart would help.
        ready: Health for the readiness probe.
        access: Access control of the metrics; None allows everyone.
        tls: Folder with certificate and key for TLS; None for plain HTTP.

    Raises:
        OSError: The port is in use, or the certificate cannot be read.
    """

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
    app.router.add_get("/healthz", _health_page("/healthz", alive))
    app.router.add_get("/readyz", _health_page("/readyz", ready))
    context = None
    if tls is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tls / CERTIFICATE, tls / KEY)
        app.cleanup_ctx.append(_renewing(context, tls))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port, ssl_context=context).start()
    return runner


def _health_page(name: str, health: Health) -> Callable[[web.Request], Any]:
    """Return the handler of one probe, which logs when it starts to fail."""
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


def _renewing(context: ssl.SSLContext, folder: Path) -> Callable[[web.Application], AsyncIterator[None]]:
    """Return a task that reloads the certificate of a server when its files change."""

    async def renew() -> None:
        loaded = (folder / CERTIFICATE).stat().st_mtime_ns
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            try:
                newest = (folder / CERTIFICATE).stat().st_mtime_ns
                if newest != loaded:
                    context.load_cert_chain(folder / CERTIFICATE, folder / KEY)
                    loaded = newest
            except OSError as error:  # partly replaced: read again later
                logger.warning("the renewed certificate in %s cannot be read: %s", folder, error)

    async def while_serving(_: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(renew())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    return while_serving

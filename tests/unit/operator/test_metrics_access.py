"""The metrics may ask for a token; health stays open and tells nothing."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from control_plane import write_certificate
from ports import free_port

from teacher_operator.runtime import metrics_access, server
from teacher_operator.runtime.cluster import ApiError
from teacher_operator.runtime.metrics import Metrics
from teacher_operator.runtime.metrics_access import AT_ONCE, ENTRIES, WAITING, MetricsAccess
from teacher_operator.runtime.server import serve
from teacher_operator.runtime.store import Store

pytestmark = pytest.mark.asyncio


class Reviewer:
    """An API server that knows some tokens."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.at_work = self.most = 0
        self.fault: ApiError | None = None
        self.allowed = {"prometheus"}

    async def create(self, kind: str, _: str, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(kind)
        self.at_work += 1
        self.most = max(self.most, self.at_work)
        await asyncio.sleep(0)
        self.at_work -= 1
        if self.fault is not None:
            raise self.fault
        if kind == "TokenReview":
            token = body["spec"]["token"]
            known = token.startswith("token-of-")
            user = {"username": token.removeprefix("token-of-"), "groups": ["g"], "extra": {"a": ["b"]}}
            return {"status": {"authenticated": True, "user": user} if known else {"error": "invalid"}}
        assert body["spec"]["nonResourceAttributes"] == {"path": "/metrics", "verb": "get"}
        assert (body["spec"]["groups"], body["spec"]["extra"]) == (["g"], {"a": ["b"]})
        return {"status": {"allowed": body["spec"]["user"] in self.allowed}}


@pytest.fixture
def reviewer() -> Reviewer:
    return Reviewer()


@pytest.fixture
def access(reviewer: Any) -> MetricsAccess:
    return MetricsAccess(reviewer)


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Bearer token-of-prometheus", HTTPStatus.OK),
        ("bearer token-of-prometheus", HTTPStatus.OK),
        ("Bearer token-of-tenant", HTTPStatus.FORBIDDEN),
        ("Bearer forged", HTTPStatus.UNAUTHORIZED),
        (None, HTTPStatus.UNAUTHORIZED),
        ("", HTTPStatus.UNAUTHORIZED),
        ("Bearer", HTTPStatus.UNAUTHORIZED),
        ("Bearer  ", HTTPStatus.UNAUTHORIZED),
        ("Basic dXNlcjpwYXNz", HTTPStatus.UNAUTHORIZED),
        ("Bearer " + "x" * 20_000, HTTPStatus.UNAUTHORIZED),
    ],
)
async def test_only_who_may_get_metrics_reads_them(access: MetricsAccess, header: str | None, status: int) -> None:
    assert await access.check(header) == status


async def test_an_answer_holds_for_a_while(
    access: MetricsAccess, reviewer: Reviewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(metrics_access.time, "monotonic", lambda: clock[0])
    for _ in range(3):
        assert await access.check("Bearer token-of-prometheus") is HTTPStatus.OK
    assert reviewer.asked == ["TokenReview", "SubjectAccessReview"]
    reviewer.allowed.clear()
    clock[0] += metrics_access.ALLOWED_SECONDS
    assert await access.check("Bearer token-of-prometheus") is HTTPStatus.FORBIDDEN
    reviewer.allowed.add("prometheus")
    clock[0] += metrics_access.DENIED_SECONDS
    assert await access.check("Bearer token-of-prometheus") is HTTPStatus.OK


async def test_an_api_server_that_does_not_answer_lets_nobody_in(
    access: MetricsAccess, reviewer: Reviewer, caplog: pytest.LogCaptureFixture
) -> None:
    reviewer.fault = ApiError(0, "the API server cannot be reached")
    assert await access.check("Bearer token-of-prometheus") is HTTPStatus.SERVICE_UNAVAILABLE
    assert "token-of-prometheus" not in caplog.text
    reviewer.fault = None
    assert await access.check("Bearer token-of-prometheus") is HTTPStatus.OK


async def test_wrong_tokens_are_no_load_on_the_api_server(access: MetricsAccess, reviewer: Reviewer) -> None:
    same = await asyncio.gather(*(access.check("Bearer token-of-prometheus") for _ in range(20)))
    assert set(same) == {HTTPStatus.OK}
    assert len(reviewer.asked) == 2
    found = await asyncio.gather(*(access.check(f"Bearer forged-{number}") for number in range(2 * WAITING)))
    assert found.count(HTTPStatus.TOO_MANY_REQUESTS) == WAITING
    assert reviewer.most <= AT_ONCE
    for number in range(ENTRIES + 10):
        await access.check(f"Bearer other-{number}")
    assert len(access._known) == ENTRIES


@pytest_asyncio.fixture
async def url(access: MetricsAccess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """A server over TLS whose metrics ask for a token, and which is not well."""
    monkeypatch.setattr(server, "RELOAD_SECONDS", 0.01)
    write_certificate(tmp_path / "tls.crt", tmp_path / "tls.key")
    port = free_port()
    details = {"last_event_age_seconds": {"Pod": 1.5}, "ended_tasks": ["Controller._work"]}
    runner = await serve(
        port,
        metrics=Metrics(Store()),
        alive=lambda: (False, details),
        ready=lambda: (True, {"leader": True}),
        access=access,
        tls=tmp_path,
    )
    yield f"https://127.0.0.1:{port}"
    await runner.cleanup()


def trusting(folder: Path) -> ssl.SSLContext:
    """Trusts the certificate in a folder, whatever name is on it."""
    context = ssl.create_default_context(cafile=folder / "tls.crt")
    context.check_hostname = False
    return context


async def test_pages(url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting(tmp_path))) as session:

        async def get(page: str, token: str = "") -> tuple[int, str, Any]:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            async with session.get(f"{url}/{page}", headers=headers) as answer:
                return answer.status, await answer.text(), answer.headers

        status, text, headers = await get("metrics")
        assert (status, text, headers["WWW-Authenticate"]) == (401, "Unauthorized\n", "Bearer")
        assert (await get("metrics", "token-of-tenant"))[:2] == (403, "Forbidden\n")
        status, text, headers = await get("metrics", "token-of-prometheus")
        assert status == 200
        assert "teacher_queue_depth" in text
        assert headers["Server"] == "teacher-operator"
        assert (await get("readyz"))[:2] == (200, '{"status": "ok"}')
        assert (await get("healthz"))[:2] == (503, '{"status": "failing"}')
        await get("healthz")
    told = [record for record in caplog.records if "Controller._work" in record.getMessage()]
    assert len(told) == 1, "the log has the details, once"


async def test_a_renewed_certificate_is_used(url: str, tmp_path: Path) -> None:
    write_certificate(tmp_path / "tls.crt", tmp_path / "tls.key")  # its authority is new too
    trusted = trusting(tmp_path)
    async with asyncio.timeout(20):
        while True:
            await asyncio.sleep(0.02)
            try:
                async with aiohttp.ClientSession() as session, session.get(f"{url}/readyz", ssl=trusted) as answer:
                    assert answer.status == 200
                    return
            except aiohttp.ClientConnectorCertificateError:
                continue


async def test_without_authentication_the_metrics_are_open() -> None:
    port = free_port()
    runner = await serve(port, metrics=Metrics(Store()), alive=lambda: (True, {}), ready=lambda: (True, {}))
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
        assert answer.status == 200
    await runner.cleanup()

"""The operator as a process: how it starts, and how it ends."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from pathlib import Path

import aiohttp
import control_plane as real
import pytest
from operators import ProcessOperator
from places import OPERATOR, token_of
from ports import free_port

import teacher_operator.runtime.selftest
from engine import __version__

pytestmark = pytest.mark.asyncio


async def test_a_port_that_is_taken_ends_it(tmp_path: Path) -> None:
    kubeconfig = real.Access("http://127.0.0.1:1", "", "token").kubeconfig(tmp_path / "kubeconfig")
    operator = ProcessOperator(kubeconfig, tmp_path / "log")
    with socket.create_server(("0.0.0.0", operator.port)):
        operator.launch()
        code = await asyncio.to_thread(operator.wait, 30)
    assert code not in (0, None)
    assert "the operator cannot start" in operator.text()
    assert str(operator.port) in operator.text()


async def test_without_a_cluster_it_ends(tmp_path: Path) -> None:
    operator = ProcessOperator(tmp_path / "no-such-file", tmp_path / "log")
    operator.launch()
    assert await asyncio.to_thread(operator.wait, 30) not in (0, None)
    assert "the operator cannot start" in operator.text()


async def test_it_waits_for_an_api_server_that_is_not_there_yet(tmp_path: Path) -> None:
    """As at the start of a whole cluster; until then it is alive, and not ready."""
    port = free_port()
    kubeconfig = real.Access(f"http://127.0.0.1:{port}", "", "token").kubeconfig(tmp_path / "kubeconfig")
    operator = ProcessOperator(kubeconfig, tmp_path / "log")
    operator.launch()
    try:
        deadline = time.monotonic() + 30
        while "cannot be listed; retrying" not in operator.text():
            assert time.monotonic() < deadline, operator.text()
            await asyncio.sleep(0.1)
        with pytest.raises(AssertionError, match="does not become ready"):
            await operator.ready(seconds=1)
    finally:
        operator.end(signal.SIGKILL)


async def test_it_ends_on_request(operator_kubeconfig: Path, tmp_path: Path) -> None:
    operator = ProcessOperator(operator_kubeconfig, tmp_path / "log", namespaces=("default",))
    operator.launch()
    await operator.ready()
    first = operator.text().splitlines()[0]
    assert f"teacher-operator {__version__} started: watches namespaces default" in first
    assert "INFO" in first
    await asyncio.sleep(1)
    begun = time.monotonic()
    code = await asyncio.to_thread(operator.end, signal.SIGTERM)
    assert time.monotonic() - begun < 10
    assert code == 0, operator.text()
    assert "Traceback" not in operator.text()


async def test_helms_test_of_an_installation_passes(
    operator_kubeconfig: Path, control_plane: real.ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = ProcessOperator(operator_kubeconfig, tmp_path / "log", namespaces=("default",))
    operator.launch()
    try:
        await operator.ready()
        monkeypatch.setattr(
            "kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(control_plane.kubeconfig)
        )
        monkeypatch.setenv("TEACHER_POD_NAMESPACE", OPERATOR)
        assert await teacher_operator.runtime.selftest.selftest(f"http://127.0.0.1:{operator.port}") == 0
        assert await teacher_operator.runtime.selftest.selftest(f"http://127.0.0.1:{free_port()}") == 1
    finally:
        operator.end(signal.SIGKILL)


async def test_metrics_ask_for_a_token_of_somebody_who_may_read_them(
    operator_kubeconfig: Path, control_plane: real.ControlPlane, tmp_path: Path
) -> None:
    """By the rights that the chart gives, on a real API server."""
    operator = ProcessOperator(
        operator_kubeconfig, tmp_path / "log", namespaces=("default",), metrics_authentication=True
    )
    for account in ("prometheus", "tenant"):
        assert control_plane.kubectl("create", "serviceaccount", account, "-n", OPERATOR).returncode == 0
    bind = ["create", "clusterrolebinding", "scrape", f"--clusterrole={OPERATOR}-metrics"]
    assert control_plane.kubectl(*bind, f"--serviceaccount={OPERATOR}:prometheus").returncode == 0
    tokens = {account: token_of(control_plane, account, OPERATOR) for account in ("prometheus", "tenant")}
    operator.launch()
    try:
        await operator.ready()
        found = {}
        async with aiohttp.ClientSession() as session:
            for account, token in {**tokens, "forged": "e30.e30.e30", "nobody": ""}.items():
                headers = {"Authorization": f"Bearer {token}"} if token else {}
                async with session.get(f"http://127.0.0.1:{operator.port}/metrics", headers=headers) as answer:
                    found[account] = answer.status
            async with session.get(f"http://127.0.0.1:{operator.port}/healthz") as answer:
                assert await answer.json() == {"status": "ok"}
        assert found == {"prometheus": 200, "tenant": 403, "forged": 401, "nobody": 401}
        assert not any(token in operator.text() for token in tokens.values())
    finally:
        operator.end(signal.SIGKILL)
        control_plane.kubectl("delete", "clusterrolebinding", "scrape")

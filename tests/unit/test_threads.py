"""OpenMP's settings are made before torch is loaded, by whoever imports the engine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.processes import threads

SHOW = "import os; print(os.environ.get('OMP_WAIT_POLICY'), os.environ.get('OMP_NUM_THREADS'))"


def run(program: str, **environment: str) -> str:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    command = [sys.executable, "-c", f"{program}\n{SHOW}"]
    return subprocess.run(command, env=variables | environment, capture_output=True, text=True, check=True).stdout


def test_threads_that_wait_sleep() -> None:
    assert run("from engine.dataset import Sample").split()[0] == "PASSIVE"


def test_what_the_user_has_set_stays() -> None:
    assert run("import engine", OMP_WAIT_POLICY="ACTIVE", OMP_NUM_THREADS="7") == "ACTIVE 7\n"


def test_nothing_is_set_once_torch_is_loaded() -> None:
    assert run("import sys; sys.modules['torch'] = sys\nimport engine") == "None None\n"


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 64), ("6400000 100000", 64), ("", 64), ("1 0", 64)],
)
def test_a_containers_quota_bounds_the_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(threads, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setattr(threads, "_ours", {})
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert threads.usable_cores() == cores
    threads.set_thread_defaults()
    assert os.environ.get("OMP_NUM_THREADS") == (None if cores == 64 else str(cores))
    assert threads.threads_each(2) == {"OMP_NUM_THREADS": str(max(1, cores // 2))}
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert threads.threads_each(2) == {}

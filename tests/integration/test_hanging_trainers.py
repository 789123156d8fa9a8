"""A trainer in which something stands still: a data worker, or one of several processes, is really stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from runs import manifest, teacher, write_parts

from engine.errors import NoProgressError
from engine.results.events import parse_line
from engine.results.outcome import parse_outcome

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``teacher_config.yaml`` of a run that is not over soon, and calls three seconds long."""
    folder = tmp_path_factory.mktemp("planned")
    file = manifest(folder, data=str(write_parts(folder / "parts")), output=str(folder / "output"), epochs=200)
    changes = ("training.hang_seconds=3", "training.workers=1", "training.log_seconds=0.01")
    words = [word for change in changes for word in ("--set", change)]
    return Path(teacher("prepare", "-f", str(file), *words, cwd=folder).stdout.strip()) / "teacher_config.yaml"


def stopped(
    config: Path, cwd: Path, choose: Callable[[psutil.Process], psutil.Process], *launch: str
) -> tuple[int, str, str]:
    """Stop a process of a trainer that has made some steps: its exit code, what it left, and its standard error."""
    outcome = cwd / "outcome.json"
    words = ["train", "--config", str(config), "--teacher", "GroundingDino", "--progress", "json"]
    left = ["--outcome", str(outcome)]
    command = [sys.executable, "-m", "engine.cli", *([*launch, *left, *words] if launch else [*words, *left])]
    environment = os.environ | {"TEACHER_CACHE": str(cwd / "cache"), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=cwd, env=environment, text=True, **pipes) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = parse_line(line)
            if event is not None and event.event == "step" and (event.step or 0) >= 5:
                break
        victim = choose(psutil.Process(process.pid))
        os.kill(victim.pid, signal.SIGSTOP)
        try:
            _, said = process.communicate(timeout=120)
        finally:
            if victim.is_running():
                victim.kill()
    found = parse_outcome(outcome.read_text())
    assert found is not None
    assert found.exit_code == process.returncode
    return process.returncode, found.message, said


def test_a_data_worker_that_stands_still(planned: Path, tmp_path: Path) -> None:
    code, message, said = stopped(planned, tmp_path, lambda trainer: trainer.children()[0])
    assert code == NoProgressError.exit_code
    assert "no progress for " in message
    assert "engine/training/loop.py" in said  # where the main thread waits


def test_one_of_two_processes_that_stands_still(planned: Path, tmp_path: Path) -> None:
    code, message, said = stopped(
        planned, tmp_path, lambda launcher: launcher.children()[1], "launch", "--processes", "2"
    )
    assert code == NoProgressError.exit_code
    assert "no progress for " in message
    assert "engine/training/distributed.py" in said

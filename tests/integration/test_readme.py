"""Every command of the README runs as it stands, in the order in which it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RUN_BY_CI = {"make demo", "make test"}


def commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL)
    return [line for block in blocks for line in block.strip().splitlines() if line not in RUN_BY_CI]


def test_the_commands_that_tests_leave_out_are_run_by_ci() -> None:
    assert set((ROOT / ".ci" / "run").read_text().splitlines()) >= RUN_BY_CI


@pytest.mark.slow
def test_every_command_and_the_python_of_the_readme_run(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / ".venv").symlink_to(Path(sys.prefix))
    (tmp_path / "python.py").write_text("\n".join(re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)))
    script = "\n".join(["set -eux", *commands(), "python python.py"])
    environment = os.environ | {"TEACHER_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-6000:]
    assert list(tmp_path.glob("out/local/*/report.html"))

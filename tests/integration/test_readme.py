"""Every command of the README and of the laptop tutorial runs as it is written, in this order."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TUTORIAL = (ROOT / "docs" / "laptop.md").read_text(encoding="utf-8")
RUN_BY_CI = {"make demo", "make test"}

pytestmark = pytest.mark.timeout(3600)
"""The whole walk is one fixture: minutes on two free cores, and as long as it takes on busy ones."""


def commands() -> list[str]:
    """The commands of both pages; one that both have runs once."""
    blocks = re.findall(r"```console\n(.*?)```", README + TUTORIAL, flags=re.DOTALL)
    assert len(blocks) >= 7
    return [line for line in dict.fromkeys("".join(blocks).splitlines()) if line not in RUN_BY_CI]


def test_the_commands_that_tests_leave_out_are_run_by_ci() -> None:
    assert set((ROOT / ".ci" / "run").read_text().splitlines()) >= RUN_BY_CI


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the commands, the Python and the notebook of the README have run, in this order."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / ".venv").symlink_to(Path(sys.prefix))
    (folder / "python.py").write_text("\n".join(re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)))
    cells = json.loads((ROOT / "examples" / "label.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    (folder / "notebook.py").write_text("\n\n".join(code))
    lines = [*commands(), "python python.py > python.txt", "python notebook.py > notebook.txt"]
    environment = os.environ | {"TEACHER_CACHE": str(folder / "cache")}
    done = subprocess.run(
        ["bash", "-c", "\n".join(["set -eux", *lines])],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return folder


@pytest.mark.slow
def test_every_command_the_python_and_the_notebook_run(walked: Path) -> None:
    assert list(walked.glob("out/local/*/report.html"))
    assert (walked / "out" / "labels.json").is_file()


@pytest.mark.slow
def test_the_output_lands_where_the_python_asks_for_it_and_prints_its_place(walked: Path) -> None:
    (adapter,) = walked.glob("out/python/*/teachers/sam_lora/adapter_model.safetensors")
    name, before, after, uri = (walked / "python.txt").read_text().split()
    assert (name, walked / uri) == ("Sam", adapter)
    assert float(after) > float(before) + 0.05


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["parts/*/grounding_dino", "local/*/grounding_dino", "local/*/sam", "python/*/sam"])
def test_every_adapter_is_better_on_images_it_was_not_trained_on(walked: Path, adapter: str) -> None:
    (folder,) = walked.glob(f"out/{adapter.replace('*/', '*/teachers/')}_lora")
    result = json.loads((folder / "result.json").read_text())
    assert result["improved"], "on the validation split"
    unseen = ["--data", "unseen/annotations.json", "--images", "unseen/images/", "--json"]
    command = [sys.executable, "-m", "engine.cli", "evaluate", "--adapter", str(folder), *unseen]
    done = subprocess.run(command, cwd=walked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    base, adapted = measured["base"]["ap"], measured["adapted"]["ap"]
    print(f"{adapter}: AP {base:.3f} -> {adapted:.3f} on 40 images")
    assert measured["comparison"]["difference"]["low"] > 0, "by more than chance"
    assert adapted > max(2 * base, base + 0.05), "so that it can be seen"


@pytest.mark.slow
def test_the_notebook_shows_a_gain(walked: Path) -> None:
    said = (walked / "notebook.txt").read_text()
    base, adapted = map(float, re.findall(r"AP (\S+) without the adapter, (\S+) with it", said)[0])
    assert adapted > max(2 * base, base + 0.05)

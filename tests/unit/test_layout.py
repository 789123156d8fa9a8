"""One module names the files of a run."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from engine import layout
from engine.layout import RunLayout, checkpoint_name, checkpoint_step
from engine.spec import TeacherName

ROOT = Path(__file__).resolve().parents[2]
NAMES = {value for name, value in vars(layout).items() if name.isupper() and isinstance(value, str) and "." in value}
SOURCES = sorted(path for folder in ("engine", "operator") for path in (ROOT / folder).rglob("*.py"))


def test_no_other_module_spells_a_file_name_of_a_run() -> None:
    assert {"result.json", "teacher_config.yaml", "metadata.json"} < NAMES
    assert len(SOURCES) > 200
    spelled = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value}"
        for path in SOURCES
        if path.name != "layout.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in NAMES
    ]
    assert spelled == []


@pytest.mark.parametrize("root", ["s3://bucket/out/a/1", "gs://bucket/out/a/1", "/out/a/1", "file:///out/a/1"])
def test_files_of_a_run_are_below_its_folder(root: str) -> None:
    run = RunLayout(root)
    assert run.config == f"{root}/teacher_config.yaml"
    assert run.result(TeacherName("Sam")) == f"{root}/teachers/sam_lora/result.json"


def test_checkpoints_are_known_by_their_step() -> None:
    assert checkpoint_step(checkpoint_name(120)) == 120
    assert checkpoint_step("detected-0.safetensors") is None

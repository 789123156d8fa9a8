"""The operator's image has nothing in it that trains."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import teacher_operator

ROOT = Path(str(teacher_operator.__file__)).parent
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in ROOT.rglob("*.py")
    if path.stem not in ("__init__", "__main__")
)

BLOCKED = """
import sys
for name in (
    "albumentations", "cv2", "faster_coco_eval", "peft", "safetensors", "scipy", "tensorboard", "torch", "torchvision",
    "transformers",
):
    sys.modules[name] = None
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BLOCKED + code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", ["torch", "transformers.utils"])
def test_what_is_blocked_cannot_be_imported(module: str) -> None:
    assert "ModuleNotFoundError" in python(f"import {module}").stderr


def test_every_module_of_the_operator_imports_without_training_libraries() -> None:
    imports = "\n".join(f"import teacher_operator.{module}" for module in MODULES)
    assert "runtime.handlers" in MODULES
    done = python(f"{imports}\nimport engine.cli.app")
    assert done.returncode == 0, done.stderr


def test_its_handlers_exist_without_training_libraries() -> None:
    code = """
from teacher_operator.runtime import handlers
from teacher_operator.api.settings import Settings
handlers.registry(Settings(operator_image="op:1", trainer_image="tr:1"))
handlers.kopf_settings()
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_deciding_needs_no_client_of_kubernetes() -> None:
    code = """
for name in ("aiohttp", "kopf", "kubernetes", "prometheus_client"):
    sys.modules[name] = None
import teacher_operator.api.crd, teacher_operator.decide.run
import teacher_operator.runtime.store, teacher_operator.runtime.workqueue
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_the_crd_can_be_printed_without_a_cluster() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "teacher_operator", "crd"], capture_output=True, text=True, check=False, env={"PATH": ""}
    )
    assert done.returncode == 0, done.stderr
    assert "kind: CustomResourceDefinition" in done.stdout


def test_a_wrong_environment_is_reported_in_lines_and_ends_with_the_code_for_configuration() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "teacher_operator", "run"],
        capture_output=True,
        text=True,
        check=False,
        env={"TEACHER_PORT": "http"},
    )
    assert done.returncode == 2
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == [
        "TEACHER_OPERATOR_IMAGE",
        "TEACHER_TRAINER_IMAGE",
        "TEACHER_PORT",
    ]

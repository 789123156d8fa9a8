"""Runs as a user makes them: the command line as a process, on a small data set and the tiny teachers."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import yaml
from forked import run_module

from engine.results.events import parse_line

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "examples" / "tiny_teachers"


def write_parts(folder: Path, images: int = 12, *, seed: int = 3) -> Path:
    """A small data set with boxes and masks; each seed draws other images."""
    runpy.run_path(str(ROOT / "examples" / "demo_data.py"))["write"](folder, images=images, seed=seed, kind="both")
    return folder


def teacher(*arguments: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder of its own."""
    environment = os.environ | {"TEACHER_CACHE": str(cwd / "cache"), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = run_module("engine.cli", *arguments, cwd=cwd, environment=environment)
    if check:
        assert done.returncode == 0, done.stderr
    return done


def started(*arguments: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """The command line as a process that is watched while it runs."""
    cwd.mkdir(exist_ok=True)
    cache = {"TEACHER_CACHE": str(cwd / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "engine.cli", *arguments, "--progress", "json"]
    return subprocess.Popen(command, cwd=cwd, env=os.environ | cache | environment, stdout=subprocess.PIPE, text=True)


def until(process: subprocess.Popen[str], kind: str, message: str = "") -> None:
    """Read the progress of a process up to an event, of which a sentence begins with ``message``."""
    assert process.stdout is not None
    for line in process.stdout:
        event = parse_line(line)
        if event is not None and event.event == kind and (event.message or "").startswith(message):
            return
    raise AssertionError(f"there was no {kind} {message}")


def manifest(folder: Path, *, data: str, output: str, epochs: int = 1, **spec: object) -> Path:
    teachers = [
        {"name": "GroundingDino", "baseModel": str(TINY / "grounding_dino"), "epochs": epochs},
        {"name": "Sam", "baseModel": str(TINY / "sam"), "epochs": epochs},
    ]
    document = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "TeacherFineTune",
        "metadata": {"name": "parts"},
        "spec": {
            "dataset": {"annotations": f"{data}/annotations.json", "images": f"{data}/images/"},
            "output": output,
            "teachers": teachers,
            **spec,
        },
    }
    path = folder / "parts.yaml"
    path.write_text(yaml.safe_dump(document))
    return path

"""From a run and a folder of images to labels, as a user calls for them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forked import run_module
from PIL import Image
from runs import write_parts
from tiny_run import TINY, save_run

from engine.storage import Storage

ROOT = Path(__file__).resolve().parents[2]
LOW = ("--threshold", "0.05")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and the data that its labels are compared with."""
    folder = tmp_path_factory.mktemp("labels")
    write_parts(folder / "data", 12, seed=0)
    save_run(folder / "run", thresholds=dict.fromkeys(("bolt", "nut", "washer"), 0.05))
    return folder


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "engine.cli", *map(str, arguments)]


def teacher(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"TEACHER_CACHE": str(cwd / "cache"), "COLUMNS": "200"}
    return run_module("engine.cli", *arguments, cwd=cwd, environment=environment)


def test_a_run_labels_a_folder_and_its_labels_are_measured_and_inspected(place: Path, tmp_path: Path) -> None:
    output = tmp_path / "labels.json"
    asked = ("label", "--adapters", place / "run", "--images", place / "data" / "images", "--output", output)
    done = teacher(*asked, "--overlays", tmp_path / "seen", "--overlay-count", 3, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(output)
    assert "12 of 12 images" in done.stderr
    assert "no threshold was measured" not in done.stderr
    assert len(list((tmp_path / "seen").iterdir())) == 3
    labels = json.loads(output.read_text())
    assert labels["annotations"]
    assert all(found["segmentation"]["counts"] for found in labels["annotations"])

    again = teacher(*asked, cwd=tmp_path)
    assert again.returncode == 0
    assert "exist already" in again.stderr

    truth = place / "data" / "annotations.json"
    measured = teacher("evaluate", "--predictions", output, "--data", truth, "--json", cwd=tmp_path)
    assert measured.returncode == 0, measured.stderr
    assert set(json.loads(measured.stdout)) == {"boxes", "masks", "mistakes"}
    assert teacher("validate", output, "--images", place / "data" / "images", cwd=tmp_path).returncode == 0


def test_a_threshold_that_was_not_measured_is_reported(place: Path, tmp_path: Path) -> None:
    save_run(tmp_path / "run")
    adapter = tmp_path / "run" / "teachers" / "grounding_dino_lora"
    output = tmp_path / "labels.json"
    asked = ("label", "--adapters", adapter, "--images", place / "data" / "images", "--output", output)
    done = teacher(*asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no threshold was measured for bolt, nut, washer: 0.3 is used" in done.stderr
    assert "boxes without masks" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGTERM])
def test_labelling_that_was_ended_is_resumed_by_the_next_process(
    place: Path, tmp_path: Path, s3: str, ended_by: signal.Signals
) -> None:
    images = Storage()
    for copy in range(9):
        images.upload_folder(place / "data" / "images", f"{s3}/images/{copy:02}")
    images.upload_folder(place / "run", f"{s3}/run")
    asked = ("label", "--adapters", f"{s3}/run", "--images", f"{s3}/images", "--json", "--output")
    environment = os.environ | {"TEACHER_CACHE": str(tmp_path / "cache"), "COLUMNS": "200"}
    with subprocess.Popen(command(*asked, f"{s3}/labels.json"), env=environment, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while len(list(images.list(f"{s3}/labels.json.parts"))) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(ended_by)
        process.communicate()
    assert process.returncode in (-signal.SIGKILL, 143)
    assert not images.exists(f"{s3}/labels.json")

    other = teacher(*asked, f"{s3}/labels.json", *LOW, "--nms", "0.5", cwd=tmp_path)
    assert other.returncode == 40
    assert "was begun with other settings (nms)" in other.stderr

    assert teacher(*asked, f"{s3}/labels.json", cwd=tmp_path).returncode == 0
    assert teacher(*asked, f"{s3}/whole.json", cwd=tmp_path).returncode == 0
    assert images.read_bytes(f"{s3}/labels.json") == images.read_bytes(f"{s3}/whole.json")
    assert not list(images.list(f"{s3}/labels.json.parts"))


@pytest.mark.slow
def test_a_student_is_trained_on_labels(place: Path, tmp_path: Path) -> None:
    output = tmp_path / "labels.json"
    folder = place / "data" / "images"
    done = teacher("label", "--adapters", place / "run", "--images", folder, "--output", output, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    student = ("--teacher", "GroundingDino", "--base-model", TINY / "grounding_dino", "--epochs", 1)
    trained = teacher(
        "run", "--data", output, "--images", folder, "--output", "out", "--name", "s", *student, cwd=tmp_path
    )
    assert trained.returncode == 0, trained.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("label", "--adapters", "nowhere", "--images", "i", "--output", "o"), "nowhere is not the folder"),
        (("label", "--adapters", "a", "--images", "i", "--output", "o", "--base-model", "x"), "TEACHER=WHERE"),
        (("evaluate", "--data", "a.json"), "give --adapter, --student, --artifact such as optimize"),
        (("evaluate", "--data", "a.json", "--adapter", "a", "--predictions", "b"), "each is measured on its own"),
        (("evaluate", "--data", "a.json", "--predictions", "nowhere.json"), "nowhere.json does not exist"),
    ],
)
def test_a_slip_is_a_sentence(arguments: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "i").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "i" / "a.png")
    done = teacher(*arguments, cwd=tmp_path)
    assert done.returncode in (40, 42, 43)
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr

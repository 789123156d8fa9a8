"""A student is trained, published and resumed by the same code as a teacher."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killed import attempt, published
from tiny_student import distill_config, publish_in
from toy import toy_sample, write_toy_data

from engine.config import DistillConfig, from_yaml, to_yaml
from engine.dataset import inspect_dataset
from engine.layout import RunLayout
from engine.registry import StudentName
from engine.results.run_files import read_metadata
from engine.storage import Storage
from engine.students import load_student
from engine.training import loop
from engine.training.trainer import TeacherTrainer

DFINE = StudentName.DFINE


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_data(tmp_path_factory.mktemp("squares") / "all.json", range(20))


def planned(data: Path, output: Path, **changes: Any) -> DistillConfig:
    config = distill_config(data, output=output, **changes)
    Storage().write_bytes(RunLayout.of(config).dataset, inspect_dataset(data).model_dump_json().encode())
    return config


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> DistillConfig:
    folder = tmp_path_factory.mktemp("trained")
    config = planned(data, folder / "output", common={"log_seconds": 1e-6})
    return publish_in(folder, config)


def test_its_configuration_is_written_and_read(data: Path, tmp_path: Path) -> None:
    config = distill_config(data, output=tmp_path)
    text = to_yaml(config)
    assert from_yaml(text) == config
    assert "  dfine:  # boxes of a fixed list of classes\n" in text
    assert "teachers" not in text.splitlines()


def test_it_is_published_whole(trained: DistillConfig) -> None:
    layout = RunLayout.of(trained)
    metadata = read_metadata(layout, Storage())
    (result,) = metadata.teachers
    assert result.teacher is DFINE
    assert result.before.ap == 0
    assert result.strength_curve is None
    assert result.retention is None
    files = {entry.path for entry in metadata.files}
    own = {"config.json", "model.safetensors", "preprocessor_config.json", "student.json", "README.md", "result.json"}
    assert {f"students/dfine/{name}" for name in own} <= files
    assert any(path.startswith("logs/dfine/") for path in files)
    assert not any("last/" in path for path in files)
    report = Path(layout.report).read_text()
    assert "D-FINE" in report
    assert "LoRA" not in report


def test_it_is_loaded_from_its_run_and_is_the_measured_one(trained: DistillConfig) -> None:
    student = load_student(RunLayout.of(trained).root, device="cpu")
    (found,) = student.predict([toy_sample(0)])
    assert student.classes == ("red", "green")
    assert len(found) > 0
    assert (np.diff(found.scores) <= 0).all()
    card = Path(RunLayout.of(trained).teacher(DFINE), "README.md").read_text()
    assert "load_student(" in card
    assert "license: apache-2.0" in card


def test_killed_it_ends_the_same(
    data: Path, trained: DistillConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "checkpoint_interval", lambda cost: 0.0)
    config = planned(data, tmp_path / "output", common={"log_seconds": 1e-6})
    exit_code, moments, _ = attempt(config, tmp_path / "work", die_at=60, by=signal.SIGKILL, teacher=DFINE)
    assert exit_code == -signal.SIGKILL, moments
    steps = sorted(Path(RunLayout.of(config).teacher(DFINE), "last").glob("checkpoint-*"))
    assert steps, "killed before its first checkpoint: choose a later moment"
    exit_code, _, said = attempt(config, tmp_path / "another machine", teacher=DFINE)
    assert (exit_code, said) == (0, "")
    expected, found = published(trained), published(config)
    for files in (expected, found):  # the library keeps anchors of the first step in this process for the others
        files["DFine"].pop("step_memory_bytes")
    assert found == expected


@pytest.mark.slow
def test_its_loss_falls_on_squares_from_random_weights(tmp_path: Path) -> None:
    data = write_toy_data(tmp_path / "data" / "all.json", range(60))
    config = distill_config(
        data,
        output=tmp_path / "output",
        epochs=10,
        batch_size=8,
        evaluations=1,
        learning_rate=1e-3,
        schedule="constant",
        denoising=20,
    )
    result = TeacherTrainer(config, DFINE, work_dir=tmp_path / "work", cache=tmp_path / "cache").train()
    losses = [point.loss for point in result.history if point.loss is not None]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])

"""Whole runs of the real architectures, with random tiny bases: what a toy teacher may hide."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import grounding_dino_settings, random_grounding_dino, save_grounding_dino
from tiny_sam import sam_settings, save_sam
from tiny_sam2 import sam2_settings, save_sam2
from together import together
from toy import run_config, training, write_toy_data

from engine.config import RunConfig
from engine.config.model import SplitFilesConfig
from engine.dataset import load_dataset, load_sample
from engine.errors import ConfigError, InterruptedTrainingError
from engine.results.events import Event
from engine.results.types import TeacherResult
from engine.spec import AugmentationSpec, Background, EnvironmentSpec, Intensity, Lighting, TeacherName
from engine.teachers import load_adapted
from engine.training import TeacherTrainer
from engine.training.distributed import Processes


@pytest.fixture(autouse=True)
def half_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish half of every adapter; after a few steps from random weights none is better than its base."""
    monkeypatch.setattr("engine.training.strength.choose_strength", lambda points, **rule: (0.5, "half"))


def config_of(folder: Path, name: TeacherName, *, dropout: float = 0.1, **changed: Any) -> RunConfig:
    """5 images to train on, in 3 steps an epoch; 2 epochs, measured after each."""
    data = write_toy_data(folder / "data" / "all.json", range(8), masks=True)
    changes = {"epochs": 2, "evaluations": 2}
    changes |= {"lora": {"preset": "encoder-decoder", "rank": 4, "alpha": 8, "dropout": dropout}} | changed
    teachers: dict[str, Any]
    if name is TeacherName.SAM:
        teachers = {"sam": sam_settings(base_model=str(save_sam(folder)), **changes)}
    elif name is TeacherName.SAM2:
        teachers = {"sam2": sam2_settings(base_model=str(save_sam2(folder)), **changes)}
    else:
        model = random_grounding_dino(name.slug.replace("_", "-"))
        base = save_grounding_dino(folder / "base", model, shortest_edge=64, longest_edge=128)
        teachers = {name.slug: grounding_dino_settings(base_model=str(base), **changes).model_dump()}
    return run_config(
        data,
        output=folder / "output",
        split=(65, 35, 0),
        prompts={"red": "red square"},
        augmentation=AugmentationSpec(
            environment=EnvironmentSpec(lighting=Lighting.VARIABLE, background=Background.PLAIN),
            intensity=Intensity.MEDIUM,
        ),
        common=training(strengths=(0.5,)),
        **teachers,
    )


def adapter_of(work: Path, name: TeacherName) -> bytes:
    return (work / f"teachers/{name.slug}_lora/adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("name", list(TeacherName))
def test_a_stopped_run_ends_with_the_same_adapter_and_it_loads_back(tmp_path: Path, name: TeacherName) -> None:
    config = config_of(tmp_path, name)
    whole = TeacherTrainer(config, work_dir=tmp_path / "whole").train()

    def kill(event: Event) -> None:
        if event.event == "checkpoint" and event.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(InterruptedTrainingError, match="after step 4 of 6"):
        TeacherTrainer(config, work_dir=tmp_path / "again", listeners=[kill]).train()
    resumed = TeacherTrainer(config, work_dir=tmp_path / "again").train()
    assert adapter_of(tmp_path / "again", name) == adapter_of(tmp_path / "whole", name)
    assert (resumed.after, resumed.history) == (whole.after, whole.history)
    assert whole.steps == 6

    # Elsewhere, by the three lines of the model card.
    moved = shutil.copytree(tmp_path / "whole" / f"teachers/{name.slug}_lora", tmp_path / "moved")
    teacher = load_adapted(moved)
    dataset = load_dataset(config.data.source.annotations)
    records = json.loads((moved / "samples.json").read_text())
    for record in records:
        (index,) = [i for i, image in enumerate(dataset.images) if image.file_name == record["file_name"]]
        sample = load_sample(dataset, index, tmp_path / "data" / record["file_name"], with_masks=False)
        (seen,) = teacher.predict([sample])
        after = record["after"]
        boxes = np.reshape(after["boxes_xyxy"], (-1, 4))  # which may be none
        np.testing.assert_allclose(seen.boxes_xyxy[: len(after["scores"])], boxes, atol=0.01)
        np.testing.assert_allclose(seen.scores[: len(after["scores"])], after["scores"], atol=1e-4)
        if teacher.needs_masks:
            assert [rle["counts"].decode() for rle in seen.masks] == after["masks"]
    assert records


@pytest.mark.parametrize("name", list(TeacherName))
def test_found_features_lead_to_the_same_adapter_as_computed_ones(tmp_path: Path, name: TeacherName) -> None:
    changes = {"preset": "decoder", "rank": 4, "alpha": 8, "dropout": 0.0}
    config = config_of(tmp_path, name, lora=changes, views=2, epochs=4)
    trainers = [TeacherTrainer(config, work_dir=tmp_path / str(i), cache=tmp_path / "cache") for i in range(2)]
    first = trainers[0].train()
    kept = {file: file.stat().st_ino for file in (tmp_path / "cache" / "features").rglob("*.safetensors")}
    assert len(kept) >= len(load_dataset(config.data.source.annotations))
    for file in list(kept)[::3]:
        file.unlink()
    again = trainers[1].train()
    assert adapter_of(tmp_path / "1", name) == adapter_of(tmp_path / "0", name)
    assert (again.after, again.history) == (first.after, first.history)
    assert any(file.stat().st_ino == then for file, then in kept.items() if file.exists()), "none was used again"


def train_together(processes: Processes, config: RunConfig, work: Path) -> tuple[TeacherResult, list[str]]:
    events: list[Event] = []
    folder = work / str(processes.rank.index)
    trainer = TeacherTrainer(config, work_dir=folder, listeners=[events.append], processes=processes)
    return trainer.train(), [event.event for event in events]


@pytest.mark.parametrize(
    ("name", "count"),  # of 3 processes one has nothing to do: a step has 2 images
    [
        (TeacherName.GROUNDING_DINO, 2),
        (TeacherName.SAM, 3),
        pytest.param(TeacherName.GROUNDING_DINO, 3, marks=pytest.mark.slow),
        pytest.param(TeacherName.SAM, 2, marks=pytest.mark.slow),
    ],
)
def test_several_processes_train_the_adapter_that_one_trains(tmp_path: Path, name: TeacherName, count: int) -> None:
    config = config_of(tmp_path, name, dropout=0)
    whole = TeacherTrainer(config, work_dir=tmp_path / "whole").train()
    ends = together(train_together, config, tmp_path / "together", count=count)
    alone, shared = (
        load_file(tmp_path / work / f"teachers/{name.slug}_lora/adapter_model.safetensors")
        for work in ("whole", "together/0")
    )
    assert alone.keys() == shared.keys()
    for tensor in alone:
        torch.testing.assert_close(shared[tensor], alone[tensor], rtol=1e-3, atol=1e-4)
    for result, _ in ends:
        assert result == ends[0][0]
        assert result.strength == 0.5
        assert result.after.ap == pytest.approx(whole.after.ap, abs=0.02)
        assert result.before.ap == pytest.approx(whole.before.ap, abs=1e-3)
        assert result.retention is not None
        assert result.retention.base.ap == pytest.approx(whole.retention.base.ap, abs=1e-3)
        losses = [(point.step, point.loss) for point in whole.history if point.loss is not None]
        its_losses = [(point.step, point.loss) for point in result.history if point.loss is not None]
        assert [step for step, _ in its_losses] == [step for step, _ in losses]
        assert [loss for _, loss in its_losses] == pytest.approx([loss for _, loss in losses], rel=1e-3)
    # The others write nothing and say nothing.
    assert {path.name for path in (tmp_path / "together").iterdir()} == {"0"}
    assert [bool(events) for _, events in ends] == [True] + [False] * (count - 1)


def test_a_probe_that_cannot_be_requested_is_reported_before_the_first_step(tmp_path: Path) -> None:
    probe = write_toy_data(tmp_path / "probe" / "all.json", range(4))
    content = json.loads(probe.read_text())
    for category, name in zip(content["categories"], ("Crimson", "crimson"), strict=True):
        category["name"] = name
    probe.write_text(json.dumps(content))
    given = training(retention=SplitFilesConfig(annotations=str(probe), images=None))
    config = config_of(tmp_path, TeacherName.GROUNDING_DINO).model_copy(update={"training": given})
    events: list[Event] = []
    with pytest.raises(ConfigError, match=r"training\.retention: Grounding DINO cannot tell class 'crimson'"):
        TeacherTrainer(config, work_dir=tmp_path / "work", listeners=[events.append]).train()
    assert {event.event for event in events} == {"note"}

"""SAM prompted by the boxes of the tuned Grounding DINO of its run: a toy for the one, a tiny model for the other."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from loops import nonempty
from safetensors.torch import load_file
from tiny_sam import sam_settings, save_sam
from toy import ToyTeacher, run_config, settings, training, write_toy_base, write_toy_data

from engine.config import RunConfig
from engine.config.teachers import TeachersConfig
from engine.dataset import inspect_dataset
from engine.dataset.types import CocoAnnotation, Detections
from engine.errors import ConfigError, InterruptedTrainingError
from engine.layout import DETECTED_BOXES, RunLayout
from engine.plan import TrainingRun
from engine.results.events import Event
from engine.results.types import TeacherResult
from engine.spec import TeacherName
from engine.storage import Storage
from engine.teachers import REGISTRY
from engine.training import TeacherTrainer
from engine.training.data.box_prompts import DetectedBoxes, match_boxes
from engine.training.publish import train_and_publish

DINO, SAM = TeacherName.GROUNDING_DINO, TeacherName.SAM
LAST = "teachers/sam_lora/last"


@pytest.fixture(autouse=True)
def toy_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTRY, DINO, ToyTeacher)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Path]:
    """The configuration of a run of both teachers, and its folder with what Grounding DINO has left there."""
    folder = tmp_path_factory.mktemp("run")
    data = write_toy_data(folder / "data" / "all.json", range(40), masks=True)
    base = write_toy_base(folder / "base")
    learner = sam_settings(
        base_model=str(save_sam(folder)), epochs=1, batch_size=8, micro_batch_size=4, detector_share=1.0
    )
    config = run_config(
        data,
        output=folder / "output",
        split=(80, 20, 0),
        common=training(log_seconds=1e-6),  # every step is told of
        grounding_dino=settings(base_model=str(base), epochs=40),
        sam=learner,
    )
    root = Path(RunLayout.of(config).root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REGISTRY, DINO, ToyTeacher)
        TeacherTrainer(config, DINO, work_dir=root).train()
    return config, root


Whole = tuple[Path, TeacherResult, list[str]]


@pytest.fixture(scope="module")
def whole(tuned: tuple[RunConfig, Path], tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """SAM trained without a stop: its folder, its result, and the messages of its training."""
    work = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REGISTRY, DINO, ToyTeacher)
        return work, *train(tuned[0], work)


def moved(tuned: tuple[RunConfig, Path], folder: Path) -> RunConfig:
    """The same run in another place, which a test may change."""
    config, root = tuned
    copied = config.model_copy(update={"output": str(folder / "output")})
    shutil.copytree(root, RunLayout.of(copied).root)
    return copied


def train(config: RunConfig, work: Path, *, kill_at: int | None = None) -> tuple[TeacherResult, list[str]]:
    said: list[str] = []

    def listen(event: Event) -> None:
        said.append(event.message or "")
        if event.event == "step" and event.step == kill_at:
            os.kill(os.getpid(), signal.SIGTERM)

    return TeacherTrainer(config, SAM, work_dir=work, listeners=[listen]).train(), said


def adapter_of(work: Path) -> bytes:
    return (work / "teachers/sam_lora/adapter_model.safetensors").read_bytes()


def found_in(said: list[str]) -> int:
    (note,) = [line for line in said if line.startswith("Grounding DINO found")]
    assert note.endswith("of 32 training objects")
    return int(note.split()[3])


def test_sam_learns_from_the_boxes_of_the_tuned_detector_and_is_measured_by_them(
    tuned: tuple[RunConfig, Path], whole: Whole, tmp_path: Path
) -> None:
    config, _ = tuned
    work, result, said = whole
    assert found_in(said) > 8
    assert result.from_detector_before is not None
    assert result.from_detector_after is not None
    assert result.from_detector_after.images == result.after.images == 8
    alone = config.model_copy(update={"teachers": TeachersConfig(sam=config.teachers.sam)})
    other, said = train(alone, tmp_path / "alone")
    assert other.from_detector_after is None
    assert not any("Grounding DINO" in line for line in said)
    assert adapter_of(work) != adapter_of(tmp_path / "alone")


def test_begun_without_the_detectors_adapter_it_resumes_without(tuned: tuple[RunConfig, Path], tmp_path: Path) -> None:
    config = moved(tuned, tmp_path)
    published = Path(RunLayout.of(config).teacher(DINO), "result.json")
    kept = published.read_bytes()
    published.unlink()
    whole, said = train(config, tmp_path / "whole")
    assert "this run has no Grounding DINO adapter: SAM is prompted by jittered true boxes alone" in said
    assert whole.from_detector_after is None
    with pytest.raises(InterruptedTrainingError):
        train(config, tmp_path / "again", kill_at=2)
    published.write_bytes(kept)
    train(config, tmp_path / "again")
    assert adapter_of(tmp_path / "again") == adapter_of(tmp_path / "whole"), "as it began"


def test_a_resumed_run_takes_the_boxes_that_it_began_with(
    tuned: tuple[RunConfig, Path], whole: Whole, tmp_path: Path
) -> None:
    config = moved(tuned, tmp_path)
    with pytest.raises(InterruptedTrainingError):
        train(config, tmp_path / "again", kill_at=2)
    shutil.rmtree(RunLayout.of(config).teacher(DINO))
    resumed, said = train(config, tmp_path / "again")
    assert not any(line.startswith("detecting objects") for line in said)
    assert adapter_of(tmp_path / "again") == adapter_of(whole[0])
    assert resumed.from_detector_after == whole[1].from_detector_after


def lose_boxes(work: Path) -> None:
    (boxes,) = (work / LAST).glob(DETECTED_BOXES.format("*"))
    boxes.unlink()


def test_lost_boxes_are_found_again_and_others_are_refused(tuned: tuple[RunConfig, Path], tmp_path: Path) -> None:
    config = moved(tuned, tmp_path)
    with pytest.raises(InterruptedTrainingError):
        train(config, tmp_path / "work", kill_at=2)
    lose_boxes(tmp_path / "work")
    with pytest.raises(InterruptedTrainingError):
        train(config, tmp_path / "work", kill_at=3)
    lose_boxes(tmp_path / "work")
    shutil.rmtree(RunLayout.of(config).teacher(DINO))
    with pytest.raises(ConfigError, match=r"detector was '[0-9a-f]{64}' and is None"):
        train(config, tmp_path / "work")


def test_another_machine_resumes_with_the_same_boxes(
    tuned: tuple[RunConfig, Path], whole: Whole, tmp_path: Path
) -> None:
    config = moved(tuned, tmp_path)
    run, root = TrainingRun(SAM, config), Path(RunLayout.of(config).root)
    (root / "dataset.json").write_text(inspect_dataset(config.data.source.annotations).model_dump_json())

    def elsewhere(work: str, kill_at: int | None = None) -> None:
        def listen(event: Event) -> None:
            if event.event == "step" and event.step == kill_at:
                os.kill(os.getpid(), signal.SIGTERM)

        train_and_publish(
            run, storage=Storage(), listener=listen, work_dir=tmp_path / work, cache=tmp_path / f"cache-{work}"
        )

    with pytest.raises(InterruptedTrainingError):
        elsewhere("first", kill_at=2)
    shutil.rmtree(tmp_path / "first")
    (root / "teachers/grounding_dino_lora/adapter_model.safetensors").unlink()
    elsewhere("second")
    ours, theirs = (
        load_file(work / "teachers/sam_lora/adapter_model.safetensors") for work in (tmp_path / "second", whole[0])
    )
    assert all((ours[name] == theirs[name]).all() for name in nonempty(theirs))
    result = json.loads((root / "teachers/sam_lora/result.json").read_text())
    assert result["from_detector_after"]["ap"] >= 0
    assert "AP from the detector's boxes" in (root / "teachers/sam_lora/README.md").read_text()


def annotation(x: float, class_index: int, *, crowd: bool = False) -> CocoAnnotation:
    return CocoAnnotation(0, class_index, (x, 0, x + 10, 10), 100, crowd)


def test_an_object_gets_the_box_of_its_class_with_the_highest_score_that_covers_it() -> None:
    annotations = [annotation(0, 0), annotation(20, 1), annotation(40, 0), annotation(60, 0, crowd=True)]
    boxes = np.array([[1, 0, 10, 10], [0, 0, 10, 10], [20, 0, 30, 10], [46, 0, 56, 10], [60, 0, 70, 10]], np.float32)
    seen = Detections(boxes, np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32), np.array([0, 0, 0, 0, 0]))
    found = match_boxes(annotations, seen)
    assert found[0].tolist() == [1, 0, 10, 10]
    assert np.isnan(found[1:]).all(), "another class, too far off, a crowd"


def test_what_was_found_is_read_as_it_was_written() -> None:
    nothing = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64))
    some = Detections(np.ones((2, 4), np.float32), np.array([0.5, 0.25], np.float32), np.array([1, 0]))
    written = DetectedBoxes.of([np.full((1, 4), np.nan, np.float32), np.zeros((0, 4), np.float32)], [nothing, some])
    read = DetectedBoxes.read(written.content)
    assert [len(boxes) for boxes in read.train] == [1, 0]
    assert [len(seen) for seen in read.val] == [0, 2]
    assert read.val[1].scores.tolist() == [0.5, 0.25]
    assert read.digest == written.digest

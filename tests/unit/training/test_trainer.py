"""Whole runs of a toy teacher, from files to files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from loops import nonempty
from toy import ToyTeacher, run_config, settings, training, write_toy_base, write_toy_data

from engine.config import RunConfig
from engine.config.model import SplitFilesConfig
from engine.config.teachers import TeachersConfig
from engine.dataset import Sample, inspect_dataset, load_dataset, load_sample
from engine.errors import BaseModelError, ConfigError, DataError, InterruptedTrainingError, TeacherError
from engine.evaluation.evaluate import evaluate
from engine.evaluation.example_images import SampleRecord
from engine.models.lora import adapter_off
from engine.results.events import Event, better_than
from engine.results.types import TeacherResult
from engine.spec import TeacherName
from engine.teachers import REGISTRY, load_adapted
from engine.training import TeacherTrainer
from engine.training.checkpoint import checkpoint_name, load_checkpoint

FOLDER = "teachers/grounding_dino_lora"


@pytest.fixture(autouse=True)
def toy_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTRY, TeacherName.GROUNDING_DINO, ToyTeacher)
    # As trained, whether it is better than its base or not: tests/unit/training/test_strength.py has the choice.
    monkeypatch.setattr("engine.training.strength.choose_strength", lambda points, **rule: (1.0, "as trained"))


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    write_toy_base(folder / "base")
    write_toy_data(folder / "data" / "all.json", range(30))
    return folder


def config_of(folder: Path, *, split: tuple[int, int, int] = (60, 20, 20), **changes: Any) -> RunConfig:
    annotations = folder / "data" / "all.json"
    common = {key: changes.pop(key) for key in ("workers", "patience", "seed", "retention") if key in changes}
    return run_config(
        annotations,
        output=folder / "output",
        split=split,
        common=training(**common),
        grounding_dino=settings(base_model=str(folder / "base"), **changes),
    )


def killer(step: int) -> Any:
    """A listener that sends SIGTERM after a step. Steps are not thinned out, since they are far apart in time."""

    def listen(event: Event) -> None:
        if event.event == "checkpoint" and event.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return listen


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def adapter_of(work: Path) -> bytes:
    return (work / FOLDER / "adapter_model.safetensors").read_bytes()


def test_a_run_leaves_a_better_adapter_and_all_that_belongs_to_it(toy_data: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    checkpoints: list[Path] = []
    shutil.copytree(toy_data / "base", tmp_path / "toy" / "base")
    write_toy_data(tmp_path / "toy" / "data" / "all.json", range(120))
    trainer = TeacherTrainer(
        config_of(tmp_path / "toy", epochs=20),
        work_dir=tmp_path,
        listeners=[events.append],
        on_checkpoint=checkpoints.append,
    )
    result = trainer.train()
    folder = tmp_path / FOLDER
    assert result.after.ap > result.before.ap + 0.05
    assert result.test_before is not None
    assert result.test_after is not None
    assert result.test_after.ap50 > result.test_before.ap50
    assert result.base_revision is not None
    assert result.trainable_parameters == 8 * (192 + 64) + 8 * (64 + 4) + 8 * (64 + 2)
    assert result.adapter.size_bytes == len(adapter_of(tmp_path))
    assert TeacherResult.model_validate_json((folder / "result.json").read_text()) == result
    assert result.thresholds.keys() == result.quality.keys() == {"red", "green"}
    assert result.confusion_before is not None
    assert result.confusion_after is not None
    assert result.confusion_before.objects == result.confusion_after.objects == result.after.images
    assert result.confusion_after.found > result.confusion_before.found
    others = [name for name in files_of(folder) if not name.startswith("samples/")]
    assert others == [
        "adapter_config.json",
        "adapter_model.safetensors",
        *(f"last/{checkpoint_name(step)}" for step in (126, 180)),
        "result.json",
        "samples.json",
        "splits.json",
        "teacher.json",
        "validation/page-001.html",
    ]
    records = [SampleRecord.model_validate(value) for value in json.loads((folder / "samples.json").read_text())]
    assert len(records) == 6
    assert all((folder / "samples" / record.image_name).is_file() for record in records)
    logs = [path for path in (tmp_path / "logs/grounding_dino").rglob("*") if path.is_file()]
    assert {path.parent.name for path in logs} == {"grounding_dino", "base"}
    assert all(path.name.startswith("events.out.tfevents") for path in logs)
    assert [path.name for path in checkpoints] == [checkpoint_name(step) for step in (0, 63, 126, 180)]
    assert {path.parent for path in checkpoints} == {folder / "last"}
    kinds = [event.event for event in events if event.event != "note"]
    assert kinds[:3] == ["evaluation", "start", "step"]
    phases = [event.phase for event in events if event.event == "evaluation"]
    assert phases == ["base", "adapted", "adapted", "adapted", "test", "retention_base", "retention"]
    known = [(event.ap_before, event.best_ap) for event in events if event.event == "evaluation"]
    assert known[0] == (result.before.ap, None)
    assert known[-1] == (result.before.ap, result.after.ap)
    assert result.after.ap == max(point.ap for point in result.history if point.ap is not None)


def test_without_a_folder_of_its_own_a_teacher_is_published_where_the_configuration_says(
    toy_data: Path, tmp_path: Path
) -> None:
    config = config_of(toy_data, epochs=1).model_copy(update={"output": str(tmp_path / "out")})
    result = TeacherTrainer(config).train()
    adapter = tmp_path / "out" / "toy" / "1" / FOLDER / "adapter_model.safetensors"
    assert result.adapter.uri == str(adapter)
    assert adapter.is_file()
    assert (adapter.parent / "README.md").is_file()
    assert load_adapted(adapter.parent).classes == ("red", "green")


def test_what_is_loaded_back_sees_what_was_measured(toy_data: Path, tmp_path: Path) -> None:
    result = TeacherTrainer(config_of(toy_data, split=(70, 30, 0)), work_dir=tmp_path).train()
    teacher = load_adapted(tmp_path / FOLDER)
    record = SampleRecord.model_validate(json.loads((tmp_path / FOLDER / "samples.json").read_text())[0])
    dataset = load_dataset(toy_data / "data" / "all.json")
    index = [image.file_name for image in dataset.images].index(record.file_name)
    sample = load_sample(dataset, index, toy_data / "data" / record.file_name, with_masks=False)
    (seen,) = teacher.predict([sample])
    assert seen.boxes_xyxy[0].tolist() == pytest.approx(record.after.boxes_xyxy[0], abs=0.01)
    assert result.test_after is None


def test_no_file_of_a_run_is_a_pickle(toy_data: Path, tmp_path: Path) -> None:
    TeacherTrainer(config_of(toy_data), work_dir=tmp_path).train()
    for name in nonempty(files_of(tmp_path)):
        content = (tmp_path / name).read_bytes()
        assert not name.endswith((".bin", ".pt", ".pth", ".pkl", ".ckpt")), name
        if name.endswith(".safetensors"):  # begins with the length of its header, whose first byte may be any
            assert content[8:9] == b"{", name
        else:
            assert not content.startswith((b"\x80", b"PK")), name


# With 18 images and steps of 8: 3 steps an epoch; evaluations and checkpoints after 6, 12 and 18.
@pytest.mark.parametrize("kill_at", [6, 12, 18])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(toy_data: Path, tmp_path: Path, kill_at: int) -> None:
    config = config_of(toy_data)
    whole = TeacherTrainer(config, work_dir=tmp_path / "whole").train()
    stopped = TeacherTrainer(config, work_dir=tmp_path / "stopped", listeners=[killer(kill_at)])
    with pytest.raises(InterruptedTrainingError):
        stopped.train()
    # Another machine has nothing but the checkpoint.
    last = f"{FOLDER}/last"
    shutil.copytree(tmp_path / "stopped" / last, tmp_path / "resumed" / last)
    resumed = TeacherTrainer(config, work_dir=tmp_path / "resumed").train()
    assert adapter_of(tmp_path / "resumed") == adapter_of(tmp_path / "whole")
    measured = {"before", "after", "test_before", "test_after", "history", "best_epoch", "epochs", "steps"}
    assert resumed.model_dump(include=measured) == whole.model_dump(include=measured)
    samples = [(tmp_path / name / FOLDER / "samples.json").read_text() for name in ("whole", "resumed")]
    assert samples[0] == samples[1]


def test_a_finished_run_is_only_measured_again(toy_data: Path, tmp_path: Path) -> None:
    config, events = config_of(toy_data), []
    first = TeacherTrainer(config, work_dir=tmp_path).train()
    again = TeacherTrainer(config, work_dir=tmp_path, listeners=[events.append]).train()
    assert again.model_dump(exclude={"seconds"}) == first.model_dump(exclude={"seconds"})
    assert not [event for event in events if event.event == "step"]
    (start,) = [event for event in events if event.event == "start"]
    best = better_than(first.before.ap, first.after.ap)
    assert (start.step, start.ap_before, start.best_ap) == (first.steps, first.before.ap, best)


def test_base_and_adapter_are_requested_what_the_data_does_not_have(toy_data: Path, tmp_path: Path) -> None:
    file = write_toy_data(tmp_path / "probe" / "all.json", range(30))
    file.write_text(file.read_text().replace('"red"', '"crimson"').replace('"green"', '"lime"'))
    config = config_of(toy_data, retention=SplitFilesConfig(annotations=str(file), images=None))
    result = TeacherTrainer(config, work_dir=tmp_path / "work").train()
    assert result.retention is not None
    assert result.retention.prompts == ("crimson", "lime")
    assert result.retention.source == str(file)
    dataset = load_dataset(file)

    def load(index: int) -> Sample:
        return load_sample(dataset, index, file.parent / dataset.images[index].file_name, with_masks=False)

    adapted = load_adapted(tmp_path / "work" / FOLDER)
    assert result.retention.adapted == evaluate(adapted, dataset, load, batch_size=4).metrics
    with adapter_off(adapted):
        assert result.retention.base == evaluate(adapted, dataset, load, batch_size=4).metrics
    assert result.retention.base.ap != result.retention.adapted.ap


def test_a_probe_of_the_same_things_is_reported_and_measures_nothing(toy_data: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    same = SplitFilesConfig(annotations=str(toy_data / "data" / "all.json"), images=None)
    config = config_of(toy_data, retention=same)
    assert TeacherTrainer(config, work_dir=tmp_path, listeners=[events.append]).train().retention is None
    assert any("is not measured" in (event.message or "") for event in events)


def test_sigterm_while_the_base_is_measured_stops_at_once(toy_data: Path, tmp_path: Path) -> None:
    events: list[Event] = []

    def kill(event: Event) -> None:
        events.append(event)
        if (event.message or "").startswith("evaluating the base model"):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(InterruptedTrainingError, match="the same command resumes"):
        TeacherTrainer(config_of(toy_data), work_dir=tmp_path, listeners=[kill]).train()
    assert {event.event for event in events} == {"note"}
    assert not (tmp_path / FOLDER).exists()


def in_a_process_group(config: RunConfig, work: Path) -> None:
    """Train in a group of processes that all get SIGTERM; ends as the command line does."""
    os.setsid()

    def kill(event: Event) -> None:
        if event.event == "checkpoint" and event.step == 6:
            os.killpg(0, signal.SIGTERM)

    try:
        TeacherTrainer(config, work_dir=work, listeners=[kill]).train()
    except TeacherError as error:
        sys.exit(error.exit_code)


def test_sigterm_to_workers_too_is_no_failure(toy_data: Path, tmp_path: Path) -> None:
    config = config_of(toy_data, workers=2)
    process = get_context("fork").Process(target=in_a_process_group, args=(config, tmp_path))
    process.start()
    process.join(timeout=120)
    process.kill()
    assert process.exitcode == 143
    checkpoint = load_checkpoint(tmp_path / FOLDER / "last")
    assert checkpoint is not None
    assert checkpoint.progress.step == 7


def test_a_checkpoint_of_other_settings_is_refused_by_name(toy_data: Path, tmp_path: Path) -> None:
    TeacherTrainer(config_of(toy_data), work_dir=tmp_path).train()
    with pytest.raises(ConfigError, match=r"teachers.grounding_dino.epochs was 6 and is 7.*start again"):
        TeacherTrainer(config_of(toy_data, epochs=7), work_dir=tmp_path).train()
    # How it is made does not matter.
    TeacherTrainer(config_of(toy_data, workers=1), work_dir=tmp_path).train()


@pytest.mark.parametrize(("damaged", "from_step"), [((18,), 12), ((18, 12), None)])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_is_used(
    toy_data: Path, tmp_path: Path, damaged: tuple[int, ...], from_step: int | None
) -> None:
    config, events = config_of(toy_data), []
    first = TeacherTrainer(config, work_dir=tmp_path).train()
    for step in damaged:
        checkpoint = tmp_path / FOLDER / "last" / checkpoint_name(step)
        checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    again = TeacherTrainer(config, work_dir=tmp_path, listeners=[events.append]).train()
    notes = [event.message or "" for event in events if event.event == "note"]
    assert sum("is damaged" in note for note in notes) == len(damaged)
    assert any("from the beginning" in note for note in notes) == (from_step is None)
    assert next(event.step for event in events if event.event == "start") == (from_step or 0)
    assert again.steps == first.steps
    assert again.adapter == first.adapter


def test_workers_change_nothing(toy_data: Path, tmp_path: Path) -> None:
    for workers in (0, 2):
        TeacherTrainer(config_of(toy_data, workers=workers), work_dir=tmp_path / str(workers)).train()
    assert adapter_of(tmp_path / "0") == adapter_of(tmp_path / "2")


def cut(image: Path) -> None:
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_is_damaged_while_it_trains_is_named_without_a_traceback(
    toy_data: Path, tmp_path: Path, workers: int
) -> None:
    shutil.copytree(toy_data, tmp_path / "toy")

    def damage(event: Event) -> None:
        if event.event == "start":  # all have been decoded once
            for image in (tmp_path / "toy" / "data").glob("*.png"):
                cut(image)

    config = config_of(tmp_path / "toy", workers=workers)
    with pytest.raises(DataError, match=r"^\d+\.png cannot be read"):
        TeacherTrainer(config, work_dir=tmp_path / "work", listeners=[damage]).train()


def test_images_that_cannot_be_read_are_left_out_and_told(toy_data: Path, tmp_path: Path) -> None:
    shutil.copytree(toy_data, tmp_path / "toy")
    for number in (3, 17):
        cut(tmp_path / "toy" / "data" / f"{number}.png")
    config, events = config_of(tmp_path / "toy"), []
    result = TeacherTrainer(config, work_dir=tmp_path / "work", listeners=[events.append]).train()
    assert result.images_skipped == 2
    assert all("cannot be read" in example for example in result.skipped_examples)
    notes = [event.message or "" for event in events if event.event == "note"]
    assert any(note.startswith("2 images are skipped: ") and "17.png" in note for note in notes)
    seen = sum(measured.images or 0 for measured in (result.after, result.test_after) if measured is not None)
    assert seen <= 12

    shutil.copytree(toy_data / "data", tmp_path / "toy" / "data", dirs_exist_ok=True)  # mended after it began
    with pytest.raises(DataError, match=r"damaged or repaired since the run began.*none is unreadable now"):
        TeacherTrainer(config, work_dir=tmp_path / "work").train()


@pytest.mark.parametrize(("most", "count"), [(20, 7), (0, 1)])
def test_more_unreadable_images_than_may_be_are_refused(toy_data: Path, tmp_path: Path, most: int, count: int) -> None:
    shutil.copytree(toy_data, tmp_path / "toy")
    for number in range(count):
        cut(tmp_path / "toy" / "data" / f"{number}.png")
    config = config_of(tmp_path / "toy")
    config = config.model_copy(update={"data": config.data.model_copy(update={"max_skipped_percent": most})})
    says = rf"^{count} of 30 images cannot be used, more than the {most} % .*maxSkippedPercent.*: 0.png cannot be read"
    with pytest.raises(DataError, match=says):
        TeacherTrainer(config, work_dir=tmp_path / "work").train()


def test_changed_annotations_are_noticed(toy_data: Path, tmp_path: Path) -> None:
    shutil.copytree(toy_data, tmp_path / "toy")
    config = config_of(tmp_path / "toy")
    write_toy_data(tmp_path / "toy" / "data" / "all.json", range(29))
    with pytest.raises(DataError, match="have changed since they were inspected"):
        TeacherTrainer(config, work_dir=tmp_path / "work").train()


def test_images_that_vanish_after_inspection_are_noticed(toy_data: Path, tmp_path: Path) -> None:
    shutil.copytree(toy_data, tmp_path / "toy")
    config = config_of(tmp_path / "toy")
    config = config.model_copy(update={"data": config.data.model_copy(update={"images": 30})})
    (tmp_path / "toy" / "data" / "7.png").unlink()
    with pytest.raises(DataError, match="30 images were usable when the data was inspected, and 29 are now"):
        TeacherTrainer(config, work_dir=tmp_path / "work").train()


def test_a_changed_base_is_noticed(toy_data: Path, tmp_path: Path) -> None:
    shutil.copytree(toy_data, tmp_path / "toy")
    config = config_of(tmp_path / "toy")
    TeacherTrainer(config, work_dir=tmp_path / "work").train()
    weights = tmp_path / "toy" / "base" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ConfigError, match="base_sha256 was"):
        TeacherTrainer(config, work_dir=tmp_path / "work").train()
    with pytest.raises(BaseModelError, match="the adapter was made for weights with sha256"):
        load_adapted(tmp_path / "work" / FOLDER)
    assert load_adapted(tmp_path / "work" / FOLDER, base_model=str(toy_data / "base")).classes == ("red", "green")


def test_a_split_without_objects_is_refused(toy_data: Path, tmp_path: Path) -> None:
    config = config_of(toy_data)
    config = config.model_copy(update={"data": config.data.model_copy(update={"classes": ("blue",)})})
    with pytest.raises(DataError, match="the train split has no objects of the classes blue"):
        TeacherTrainer(config, work_dir=tmp_path).train()


def test_given_splits_are_used_as_they_are(toy_data: Path, tmp_path: Path) -> None:
    for name, indices in (("train", range(20)), ("val", range(20, 26)), ("test", range(26, 30))):
        write_toy_data(tmp_path / "data" / name / "_annotations.coco.json", indices)
    data = {
        "digest": inspect_dataset(tmp_path / "data").digest,
        "source": SplitFilesConfig(annotations=str(tmp_path / "data"), images=None),
    }
    config = config_of(toy_data)
    config = config.model_copy(update={"data": config.data.model_copy(update=data)})
    result = TeacherTrainer(config, work_dir=tmp_path / "work").train()
    assert (result.after.images, result.test_after and result.test_after.images) == (6, 4)
    assert result.steps == 18  # 20 images in steps of 8, 6 epochs


def test_which_teacher_must_be_clear(toy_data: Path) -> None:
    config = config_of(toy_data)
    with pytest.raises(ConfigError, match="the run tunes GroundingDino, not Sam"):
        TeacherTrainer(config, TeacherName.SAM)
    none = config.model_copy(update={"teachers": TeachersConfig()})
    with pytest.raises(ConfigError, match="the run tunes no teacher"):
        TeacherTrainer(none)

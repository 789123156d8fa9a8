from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from toy import result_of, run_config, settings

from engine.config import RunConfig
from engine.errors import StorageError
from engine.layout import DETECTED_BOXES, RESULT, RunLayout
from engine.plan import TrainingRun
from engine.results.events import Event
from engine.results.run_files import read_result
from engine.results.types import TeacherResult
from engine.spec import AugmentationSpec, TeacherName
from engine.storage import Storage, join
from engine.training import publish
from engine.training.checkpoint import Checkpoint, Progress, checkpoint_name, load_checkpoint, save_checkpoint
from engine.training.data.box_prompts import DETECTOR
from engine.training.resume import fetch_checkpoints, upload_checkpoint

DINO = TeacherName.GROUNDING_DINO


@pytest.fixture
def run(tmp_path: Path) -> TrainingRun:
    config = run_config(
        "a.json", output=tmp_path / "output", augmentation=AugmentationSpec(), grounding_dino=settings()
    )
    return TrainingRun(DINO, config)


def write_result(layout: RunLayout) -> TeacherResult:
    result = result_of(DINO)
    file = Path(layout.teacher(DINO), RESULT)
    file.parent.mkdir(parents=True)
    file.write_text(result.model_dump_json())
    return result


def published_again(run: TrainingRun, tmp_path: Path) -> tuple[TeacherResult, list[Event]]:
    events: list[Event] = []
    return publish.train_and_publish(
        run, storage=Storage(), listener=events.append, work_dir=tmp_path / "work", cache=tmp_path / "cache"
    ), events


@pytest.fixture
def publications(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    def not_again(*arguments: Any, **more: Any) -> None:
        raise AssertionError("it is trained again")

    calls: list[RunConfig] = []
    monkeypatch.setattr(publish, "TeacherTrainer", not_again)
    monkeypatch.setattr(publish, "publish_run", lambda config, storage: calls.append(config))
    return calls


def test_a_teacher_that_is_published_is_not_trained_again_but_the_run_is_published(
    run: TrainingRun, tmp_path: Path, publications: list[RunConfig]
) -> None:
    written = write_result(run.layout)
    result, (event,) = published_again(run, tmp_path)
    assert result == written
    assert (event.event, event.step, event.ap_before, event.best_ap) == ("done", 18, 0.25, 0.5)
    assert "is published already" in (event.message or "")
    assert publications == [run.config]


def test_a_run_that_is_published_is_left_as_it_is(
    run: TrainingRun, tmp_path: Path, publications: list[RunConfig]
) -> None:
    write_result(run.layout)
    Path(run.layout.metadata).write_text("{}")
    published_again(run, tmp_path)
    assert not publications


def test_a_result_of_another_version_is_a_sentence(run: TrainingRun) -> None:
    assert read_result(run.layout, DINO, Storage()) is None
    write_result(run.layout)
    Path(run.layout.teacher(DINO), RESULT).write_text("{}")
    with pytest.raises(StorageError, match=r"result.json was not written by this version of teacher"):
        read_result(run.layout, DINO, Storage())


def write_checkpoint(last: Path, step: int, boxes: bytes = b"") -> Path:
    """A checkpoint that goes with some boxes, and these."""
    settings = {}
    if boxes:
        settings[DETECTOR] = hashlib.sha256(boxes).hexdigest()
        last.mkdir(parents=True, exist_ok=True)
        (last / DETECTED_BOXES.format(settings[DETECTOR])).write_bytes(boxes)
    return save_checkpoint(Checkpoint(Progress(step=step), {}, settings, adapter={}, optimizer={}), last)


def test_a_checkpoint_is_kept_only_beside_the_boxes_that_it_goes_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"
    checkpoint = write_checkpoint(tmp_path / "last", 0, b"boxes")
    storage, upload = Storage(), Storage.upload

    def fails(self: Storage, path: Path, uri: str) -> None:
        if path != checkpoint:
            raise StorageError("the store is gone")
        upload(self, path, uri)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "upload", fails)
        with pytest.raises(StorageError, match="the store is gone"):
            upload_checkpoint(checkpoint, storage=storage, uri=str(kept))
    assert not (kept / checkpoint.name).exists()
    upload_checkpoint(checkpoint, storage=storage, uri=str(kept))
    assert {path.name for path in kept.iterdir()} == {path.name for path in (tmp_path / "last").iterdir()}
    fetch_checkpoints(storage, str(kept), tmp_path / "another machine")
    assert len(list((tmp_path / "another machine").iterdir())) == 2


@pytest.mark.parametrize("place", ["file", "s3"])
def test_storage_keeps_the_two_newest_and_gives_the_newest_that_is_whole(
    tmp_path: Path, place: str, request: pytest.FixtureRequest
) -> None:
    uri = str(tmp_path / "kept") if place == "file" else request.getfixturevalue("s3") + "/last"
    storage = Storage()
    for step in (0, 10, 20):
        upload_checkpoint(write_checkpoint(tmp_path / "last", step), storage=storage, uri=uri)
    assert [item.key for item in storage.list(uri)] == [checkpoint_name(10), checkpoint_name(20)]
    newest = join(uri, checkpoint_name(20))
    storage.write_bytes(newest, storage.read_bytes(newest)[:-1])
    fetch_checkpoints(storage, uri, tmp_path / "here")
    found = load_checkpoint(tmp_path / "here")
    assert found is not None
    assert found.progress.step == 10


def test_what_is_here_and_further_is_not_fetched_over(tmp_path: Path) -> None:
    storage, there = Storage(), str(tmp_path / "kept")
    upload_checkpoint(write_checkpoint(tmp_path / "last", 10), storage=storage, uri=there)
    write_checkpoint(tmp_path / "here", 20)
    fetch_checkpoints(storage, there, tmp_path / "here")
    assert [path.name for path in (tmp_path / "here").iterdir()] == [checkpoint_name(20)]


def test_boxes_that_a_checkpoint_goes_with_come_before_it_and_are_brought_again(tmp_path: Path) -> None:
    """An attempt that dies between two downloads must not leave a checkpoint without them for ever."""
    there, here, storage = tmp_path / "there", tmp_path / "here", Storage()
    there.mkdir()
    content = b"boxes"
    digest = hashlib.sha256(content).hexdigest()
    boxes = DETECTED_BOXES.format(digest)
    (there / boxes).write_bytes(content)
    save_checkpoint(Checkpoint(Progress(step=3), {}, {DETECTOR: digest}, adapter={}, optimizer={}), there)
    name = checkpoint_name(3)

    class Dying(Storage):
        def download(self, uri: str, path: Path) -> Path:
            if (here / boxes).exists() or uri.endswith(boxes):
                raise StorageError("gone")
            return super().download(uri, path)

    with pytest.raises(StorageError):
        fetch_checkpoints(Dying(), str(there), here)
    assert not (here / name).exists()
    fetch_checkpoints(storage, str(there), here)
    assert (here / name).exists()
    assert (here / boxes).read_bytes() == content
    for damage in (b"damaged", None):
        (here / boxes).unlink()
        if damage:
            (here / boxes).write_bytes(damage)
        fetch_checkpoints(storage, str(there), here)
        assert (here / boxes).read_bytes() == content

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy import metrics, settings, training

from engine.artifacts import RESULT, RunLayout, read_result
from engine.config import DataConfig, RunConfig
from engine.config.model import PartConfig, SplitConfig, StorageConfig, TeachersConfig
from engine.errors import StorageError
from engine.plan import TrainingRun
from engine.progress import Event
from engine.results import AdapterFile, TeacherResult
from engine.spec import AugmentationSpec, TeacherName
from engine.storage import Storage
from engine.training import publish
from engine.training.checkpoint import CHECKPOINT
from engine.training.detected import DETECTED

DINO = TeacherName.GROUNDING_DINO


@pytest.fixture
def run(tmp_path: Path) -> TrainingRun:
    config = RunConfig(
        name="toy",
        run_id="1",
        output=str(tmp_path / "output"),
        storage=StorageConfig(endpoint_url=None, region=None),
        data=DataConfig(
            digest="0",
            classes=("red",),
            prompts={},
            source=PartConfig(annotations="a.json", images=None),
            split=SplitConfig(train=60, val=20, test=20),
            train=None,
            val=None,
            test=None,
        ),
        augmentation=AugmentationSpec(),
        training=training(),
        teachers=TeachersConfig(grounding_dino=settings()),
    )
    return TrainingRun(DINO, config)


def write_result(layout: RunLayout) -> TeacherResult:
    result = TeacherResult(
        teacher=DINO,
        base_model="base",
        base_revision=None,
        before=metrics(0.25),
        after=metrics(0.5),
        epochs=6,
        steps=18,
        seconds=1,
        peak_memory_bytes=1,
        trainable_parameters=1,
        adapter=AdapterFile(uri="a", sha256="0", size_bytes=1),
    )
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
    with pytest.raises(StorageError, match=r"result.json is not what this version of teacher writes"):
        read_result(run.layout, DINO, Storage())


def test_a_checkpoint_is_kept_only_beside_the_boxes_that_it_goes_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last, kept = tmp_path / "last", tmp_path / "kept"
    last.mkdir()
    for name in (CHECKPOINT, DETECTED):
        (last / name).write_bytes(b"content")
    storage, upload = Storage(), Storage.upload

    def fails(self: Storage, path: Path, uri: str) -> None:
        if path.name == DETECTED:
            raise StorageError("the store is gone")
        upload(self, path, uri)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "upload", fails)
        with pytest.raises(StorageError, match="the store is gone"):
            publish._keep(last, storage=storage, uri=str(kept))
    assert not (kept / CHECKPOINT).exists()
    publish._keep(last, storage=storage, uri=str(kept))
    assert {path.name for path in kept.iterdir()} == {CHECKPOINT, DETECTED}

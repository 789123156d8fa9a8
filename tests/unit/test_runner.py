from __future__ import annotations

from pathlib import Path

import pytest
from loops import nonempty
from toy import metadata_of, result_of, write_toy_data

from engine import runner
from engine.dataset import DatasetInfo, inspect_dataset
from engine.errors import ConfigError, StorageError
from engine.layout import ADAPTER, RESULT, RunLayout
from engine.manifest import Manifest
from engine.plan import TrainingRun, plan
from engine.spec import (
    DatasetSpec,
    FineTuneSpec,
    LoraSpec,
    RetentionSpec,
    TeacherName,
    TeacherSpec,
    TrainingSpec,
)
from engine.storage import Storage, join

TINY = Path(__file__).resolve().parents[2] / "examples" / "tiny_teachers" / "grounding_dino"
COCO = """{
    "images": [{"id": 1, "file_name": "1.png", "width": 64, "height": 64},
               {"id": 2, "file_name": "2.png", "width": 64, "height": 64}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0},
                    {"id": 2, "image_id": 2, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}],
    "categories": [{"id": 1, "name": "bolt"}]
}"""


@pytest.fixture
def planned(tmp_path: Path) -> tuple[DatasetInfo, tuple[TrainingRun, ...]]:
    file = tmp_path / "a.json"
    file.write_text(COCO)
    spec = FineTuneSpec(dataset=DatasetSpec(annotations=str(file)), output=str(tmp_path / "out"))
    info = inspect_dataset(file)
    return info, plan(Manifest(name="parts", spec=spec), info)


def published(layout: RunLayout, run: TrainingRun) -> list[Path]:
    files = [Path(layout.metadata), Path(layout.teacher(run.teacher), RESULT)]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
    return files


def test_to_begin_again_takes_nothing_away(planned: tuple[DatasetInfo, tuple[TrainingRun, ...]]) -> None:
    info, runs = planned
    layout = runs[0].layout
    runner.begin(info, runs, Storage())
    config = Path(layout.config).read_bytes()
    files = published(layout, runs[0])
    runner.begin(info, runs, Storage())
    assert all(file.exists() for file in nonempty(files))
    assert Path(layout.config).read_bytes() == config


def test_the_configuration_of_another_run_is_not_overwritten(
    planned: tuple[DatasetInfo, tuple[TrainingRun, ...]], tmp_path: Path
) -> None:
    info, runs = planned
    runner.begin(info, runs, Storage())
    file = Path(runs[0].layout.config)
    whole = file.read_text()
    file.write_text(whole.replace("# ", "# other words of another version: ").replace("workers: null", "workers: 1"))
    runner.begin(info, runs, Storage())
    assert file.read_text() == whole
    for other in (whole.replace("seed: 0", "seed: 1"), "", "[", whole.replace(runs[0].config.run_id, "0" * 12)):
        assert other != whole
        file.write_text(other)
        with pytest.raises(ConfigError, match=r"was edited or copied there; move .* away, .* --again"):
            runner.begin(info, runs, Storage())
        assert file.read_text() == other
    runner.forget(runs, Storage(), work_dir=tmp_path / "work")
    runner.begin(info, runs, Storage())
    assert file.read_text() == whole


def test_the_metadata_of_another_run_is_not_taken_for_this_ones(
    planned: tuple[DatasetInfo, tuple[TrainingRun, ...]],
) -> None:
    layout = planned[1][0].layout
    assert runner.published(layout, Storage(), planned[1][0].config) is None
    config = planned[1][0].config
    metadata = metadata_of(run_id=config.run_id)
    Storage().write_bytes(layout.metadata, metadata.model_dump_json().encode())
    assert runner.published(layout, Storage(), config) == metadata
    other = metadata.model_copy(update={"run_id": "other"})
    Storage().write_bytes(layout.metadata, other.model_dump_json().encode())
    with pytest.raises(ConfigError, match=r"metadata\.json is that of run other: move .* away, .* --again"):
        runner.published(layout, Storage(), config)


def test_a_published_run_that_is_damaged_or_was_laxer_is_not_taken_for_this_one(
    planned: tuple[DatasetInfo, tuple[TrainingRun, ...]],
) -> None:
    run, storage = planned[1][0], Storage()
    adapter, whole = join(run.layout.teacher(run.teacher), ADAPTER), b"weights"
    storage.write_bytes(adapter, whole)
    result = result_of(run.teacher, images_skipped=2)
    path = adapter.removeprefix(f"{run.layout.root}/")
    metadata = metadata_of(run_id=run.config.run_id, teachers=(result,), files={path: Path(adapter)})
    storage.write_bytes(run.layout.metadata, metadata.model_dump_json().encode())
    data = run.config.data.model_copy(update={"images": 10})
    lax, strict = (
        run.config.model_copy(update={"data": data.model_copy(update={"max_skipped_percent": most})})
        for most in (20, 0)
    )
    assert runner.published(run.layout, storage, lax) == metadata
    with pytest.raises(ConfigError, match="is published, but 2 images were left out of it, more than the 0 %"):
        runner.published(run.layout, storage, strict)
    storage.write_bytes(adapter, whole + b"!")
    with pytest.raises(StorageError, match=r"missing or not what was published: `teacher run --again`"):
        runner.published(run.layout, storage, lax)
    storage.delete(adapter)
    with pytest.raises(StorageError, match=r"missing or not what was published"):
        runner.published(run.layout, storage, lax)


def test_missing_retention_data_is_reported_before_anything_is_trained(tmp_path: Path) -> None:
    file = write_toy_data(tmp_path / "data" / "a.json", range(4))
    spec = FineTuneSpec(
        dataset=DatasetSpec(annotations=str(file)),
        output=str(tmp_path / "out"),
        training=TrainingSpec(retention=RetentionSpec(annotations=str(tmp_path / "typo.json"))),
    )
    with pytest.raises(ConfigError, match=r"typo\.json does not exist"):
        runner.prepare(Manifest(name="parts", spec=spec), Storage())
    (tmp_path / "typo.json").write_text(COCO)
    _, runs = runner.prepare(Manifest(name="parts", spec=spec), Storage())
    assert runs[0].config.training.retention is not None


@pytest.mark.parametrize(
    ("base", "layers"), [("IDEA-Research/grounding-dino-tiny", 6), (str(TINY), 1), ("someone/else", None)]
)
def test_more_layers_than_a_known_base_has_cannot_be_skipped(tmp_path: Path, base: str, layers: int | None) -> None:
    file = write_toy_data(tmp_path / "data" / "a.json", range(4))

    def skip(layers: int) -> int:
        asked = TeacherSpec(name=TeacherName.GROUNDING_DINO, base_model=base, lora=LoraSpec(skip_layers=layers))
        spec = FineTuneSpec(dataset=DatasetSpec(annotations=str(file)), output="out", teachers=[asked])
        return len(runner.prepare(Manifest(name="parts", spec=spec), Storage())[1])

    if layers is None:
        assert skip(99) == 1, "the trainer will tell"
        return
    assert skip(layers) == 1
    told = f"^teachers.grounding_dino.lora.skip_layers is {layers + 1}, and the encoder of {base} has {layers} layers"
    with pytest.raises(ConfigError, match=told):
        skip(layers + 1)


def test_what_is_forgotten_is_not_published(
    planned: tuple[DatasetInfo, tuple[TrainingRun, ...]], tmp_path: Path
) -> None:
    info, runs = planned
    runner.begin(info, runs, Storage())
    files = published(runs[0].layout, runs[0])
    (tmp_path / "work").mkdir()
    runner.forget(runs, Storage(), work_dir=tmp_path / "work")
    assert not any(file.exists() for file in files)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(("prompts", "fillers"), [({}, 10_000), ({"red": "scarlet"}, 10_000), ({}, 1_000)])
def test_names_that_a_published_base_cannot_read_are_reported_with_the_data(
    tmp_path: Path, prompts: dict[str, str], fillers: int
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    words = [f"filler{i}" for i in range(fillers)]
    (base / "vocab.txt").write_text("\n".join(["green", "r", "##ed", *words]), encoding="utf-8")
    file = write_toy_data(tmp_path / "data" / "a.json", range(8))
    spec = FineTuneSpec(
        dataset=DatasetSpec(annotations=str(file)),
        output=str(tmp_path / "out"),
        teachers=[TeacherSpec(name=TeacherName.GROUNDING_DINO, base_model=str(base))],
        class_prompts=prompts,
    )
    info, runs = runner.prepare(Manifest(name="parts", spec=spec), Storage())
    runner.begin(info, runs, Storage())
    kept = DatasetInfo.model_validate_json(Path(runs[0].layout.dataset).read_bytes())
    told = [problem.examples for problem in kept.problems if problem.code == "odd_class_name"]
    assert told == ([] if prompts or fillers < 10_000 else [("red (2 pieces: r ##ed)",)])

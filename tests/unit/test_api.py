"""``import engine`` offers the public functions without loading torch."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from coco_files import small_coco, write, write_images
from tiny_run import TINY, save_run
from toy import metadata_of, result_of
from typer.testing import CliRunner

import engine
from engine import api, runner
from engine.api.arguments import adapter_folder
from engine.cli.app import app
from engine.errors import ConfigError, DataError
from engine.spec import TeacherName, TeacherSpec


def test_importing_the_engine_and_its_functions_loads_no_torch() -> None:
    program = "import sys, engine; [getattr(engine, name) for name in engine.__all__]; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_public_functions_are_those_of_the_api() -> None:
    tuning = ["evaluate", "fine_tune", "inspect_dataset", "label", "load_adapted"]
    assert engine.__all__ == sorted([*tuning, "distill", "load_student", "optimize"])
    assert all(getattr(engine, name) is getattr(api, name) for name in engine.__all__)
    assert set(engine.__all__) <= set(dir(engine))
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        engine.distil  # type: ignore[attr-defined]  # noqa: B018


def test_a_dataset_is_inspected_by_its_path(tmp_path: Path) -> None:
    write_images(tmp_path / "images", [f"{i:03d}.png" for i in range(1, 13)])
    assert engine.inspect_dataset(write(tmp_path / "annotations.json", small_coco(12, 3))).images == 12


@pytest.mark.parametrize(
    ("adapter", "folder"),
    [
        ("out/run/sam_lora/adapter_model.safetensors", "out/run/sam_lora"),
        ("s3://bucket/run/adapter_model.safetensors", "s3://bucket/run"),
        ("adapter_model.safetensors", "."),
        ("my_adapter_model.safetensors", "my_adapter_model.safetensors"),
        ("out/run/", "out/run/"),
    ],
)
def test_an_adapter_may_be_named_by_its_file(adapter: str, folder: str) -> None:
    assert adapter_folder(adapter) == folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teachers": ["Sma"]}, "teachers"),
        ({"teachers": [{"name": "Sam", "epoch": 3}]}, "there is no setting 'epoch' .did you mean 'epochs'"),
        ({"teachers": [{"name": "Sam", "accumulation_steps": 3}]}, "accumulationSteps was removed: set batchSize"),
        ({"settings": {"teachers.sam.clipnorm": 0.5}}, "did you mean 'clip_norm'"),
        ({"settings": {"output": "elsewhere"}}, "there is no setting 'output'"),
        ({"training": {"seed": -1}}, r"training\.seed: must be at least 0, found -1"),
        ({"teachers": "Sam"}, r'teachers: must be a list: write \["Sam"\]'),
        ({"teachers": [{"name": "Sam", "lora": "all"}]}, r"lora: must be a group of settings: preset, rank, .*'all'"),
        ({"teachers": [{"name": "Sam", "epochs": "six"}]}, "epochs: must be a whole number, found 'six'"),
        ({"teachers": [{"name": "Sam", "learning_rate": 2}]}, r"learning_rate: must be above"),
        ({"teachers": [{"name": "Sam", "lora": {"dropout": -0.5}}]}, r"dropout: "),
        ({"teachers": [{"name": "Sam", "learning_rate": True}]}, "write it in quotes"),
    ],
)
def test_a_wrong_argument_is_named_as_in_a_manifest(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    write_images(tmp_path / "images", [f"{i:03d}.png" for i in range(1, 13)])
    data = write(tmp_path / "annotations.json", small_coco(12, 3, masks=True))
    with pytest.raises(ConfigError, match=said):
        engine.fine_tune(data, output=tmp_path / "out", **changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters of both teachers for cats and dogs, which were never trained."""
    return save_run(tmp_path_factory.mktemp("run"), classes=("cat", "dog"))


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Annotations of three images without masks, with the images next to them."""
    folder = tmp_path_factory.mktemp("boxes")
    write_images(folder / "images", [f"{i:03d}.png" for i in range(1, 4)])
    return write(folder / "annotations.json", small_coco(3, 2))


def test_decimal_numbers_may_be_numbers_and_a_run_gives_its_folder(
    boxes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def run_stages(info: Any, runs: Any, storage: Any, **options: Any) -> Any:
        started.append(runs[0])
        return metadata_of(run_id=runs[0].config.run_id, teachers=(result_of(TeacherName.GROUNDING_DINO),))

    monkeypatch.setattr(runner, "run_stages", run_stages)
    base = str(TINY / "grounding_dino")
    detector = {"name": "GroundingDino", "base_model": base, "learning_rate": 1e-5, "lora": {"dropout": 0}}
    run = engine.fine_tune(boxes, output=tmp_path / "out", teachers=[detector])
    settings = started[0].config.teachers.grounding_dino
    assert (settings.learning_rate, settings.lora.dropout) == (1e-5, 0)
    assert run.uri == f"{tmp_path}/out/run/{run.run_id}"
    assert run.teachers == run.metadata.teachers
    assert "uri" not in type(run.metadata).model_fields


def test_a_manifest_has_decimal_numbers_in_quotes() -> None:
    with pytest.raises(ValueError, match="valid string"):
        TeacherSpec.model_validate({"name": "Sam", "learningRate": 1e-4})


def test_an_adapter_for_masks_is_not_evaluated_on_data_without_them(run: Path, boxes: Path) -> None:
    adapter = run / "teachers" / "sam_lora"
    with pytest.raises(DataError, match=rf"SAM needs masks, {boxes} has none: annotate masks"):
        engine.evaluate(adapter, boxes)
    done = CliRunner().invoke(app, ["evaluate", "--adapter", str(adapter), "--data", str(boxes)])
    assert isinstance(done.exception, DataError), done.output
    assert DataError.exit_code == 41


def test_data_without_objects_is_not_evaluated(run: Path, boxes: Path, tmp_path: Path) -> None:
    coco = small_coco(3, 2) | {"annotations": []}
    empty = write(tmp_path / "annotations.json", coco)
    with pytest.raises(DataError, match=r"Grounding DINO needs boxes, .* has none: annotate boxes"):
        engine.evaluate(run / "teachers" / "grounding_dino_lora", empty, boxes.parent / "images")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number at least 1, found 0"),
        ({"batch_size": 2.0}, "batch_size must be a whole number at least 1, found 2.0"),
        ({"threshold": 1.5}, "threshold must be a number from 0 to 1, found 1.5"),
        ({"threshold": float("nan")}, "threshold must be a number from 0 to 1, found nan"),
        ({"nms": -0.1}, "nms must be a number from 0 to 1, found -0.1"),
        ({"base_model": {"Sma": "bases/sam"}}, "base_model: there is no teacher 'Sma'"),
        ({"storage": {"endpoint": "http://localhost"}}, "there is no setting 'endpoint'"),
    ],
)
def test_a_wrong_argument_of_label_is_named_before_anything_is_loaded(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        engine.label("run", "images", "labels.json", **wrong)


def test_the_command_label_has_the_same_bounds() -> None:
    given = ["label", "--adapters", "run", "--images", "images", "--output", "labels.json"]
    for flag, value in [("--batch-size", "0"), ("--threshold", "1.5"), ("--nms", "-0.1")]:
        done = CliRunner().invoke(app, [*given, flag, value])
        assert done.exit_code == 2, done.output


def test_a_folder_is_labelled_with_bases_that_were_moved_and_the_labels_are_evaluated(
    run: Path, boxes: Path, tmp_path: Path
) -> None:
    shutil.copytree(TINY / "sam", tmp_path / "sam")
    output = tmp_path / "labels.json"
    done = engine.label(
        run, boxes.parent / "images", output, threshold=0.0, nms=0.2, base_model={"Sam": tmp_path / "sam"}
    )
    assert done is not None
    assert done.images == 3
    measured = engine.evaluate(data=boxes, predictions=output)
    assert measured.boxes.images == 3
    with pytest.raises(ConfigError, match="give either adapter or predictions"):
        engine.evaluate(run, boxes, predictions=output)  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="batch_size must be"):
        engine.evaluate(run, boxes, batch_size=0)


def test_an_enum_is_checked_and_its_spelling_named(boxes: Path) -> None:
    assert engine.inspect_dataset(boxes, crowds="Objects").images == 3
    with pytest.raises(ConfigError, match=r"crowds: 'objects' is not allowed \(did you mean 'Objects'\?\)"):
        engine.inspect_dataset(boxes, crowds="objects")
    with pytest.raises(ConfigError, match=r"exif_orientation: 'auto' is not allowed \(did you mean 'Auto'\?\)"):
        engine.evaluate("adapter", boxes, exif_orientation="auto")


def test_every_function_takes_the_same_access_to_storage() -> None:
    kinds = {inspect.signature(getattr(engine, name)).parameters["storage"].annotation for name in engine.__all__}
    assert kinds == {"StorageSpec | Fields | None"}

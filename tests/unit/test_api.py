"""``import engine`` offers the public functions without loading torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from coco_files import small_coco, write, write_images
from tiny_run import save_run
from typer.testing import CliRunner

import engine
from engine import api
from engine.cli.app import app
from engine.errors import ConfigError, DataError


def test_importing_the_engine_and_its_functions_loads_no_torch() -> None:
    program = "import sys, engine; [getattr(engine, name) for name in engine.__all__]; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_public_functions_are_those_of_the_api() -> None:
    assert engine.__all__ == ["evaluate", "fine_tune", "inspect_dataset", "label", "load_adapted"]
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
    assert api._folder(adapter) == folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teachers": ["Sma"]}, "teachers"),
        ({"teachers": [{"name": "Sam", "epoch": 3}]}, "there is no setting 'epoch' .did you mean 'epochs'"),
        ({"teachers": [{"name": "Sam", "accumulation_steps": 3}]}, "accumulationSteps was removed: set batchSize"),
        ({"settings": {"teachers.sam.clipnorm": 0.5}}, "did you mean 'clip_norm'"),
        ({"settings": {"output": "elsewhere"}}, "there is no setting 'output'"),
        ({"training": {"seed": -1}}, r"training\.seed"),
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

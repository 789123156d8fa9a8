"""Artifacts are measured in their own runtime, published or refused with the numbers, and run without this package."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from artifacts import SIZE, assert_same, predictions, random_student, scene, write_data
from PIL import Image
from tiny_run import save_run
from typer.testing import CliRunner

import engine
from engine.cli.app import app
from engine.dataset.types import Detections, Frame
from engine.errors import ArtifactRefusedError, ConfigError, DataError
from engine.evaluation.evaluate import Evaluation, evaluate
from engine.models.model import Origin
from engine.optimization.artifact import load_artifact
from engine.optimization.measure import Workshop
from engine.optimization.source import measuring_images
from engine.results.artifacts import refuse_lossy
from engine.spec import Crowds, ExifOrientation, TeacherName
from engine.storage import Storage

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("run"), (TeacherName.GROUNDING_DINO,))


@pytest.fixture(scope="module")
def teacher(run: Path) -> Any:
    return engine.load_adapted(run, device="cpu")


@pytest.fixture(scope="module")
def data(teacher: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), teacher, 6)


@pytest.fixture(scope="module")
def artifacts(run: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("artifacts")
    made = engine.optimize(run, data, data.parent / "images", output=folder, threads=1)
    return made, folder / "grounding_dino"


def test_an_artifact_is_published_with_what_was_measured(artifacts) -> None:
    made, folder = artifacts
    assert json.loads((folder / "artifacts.json").read_text()) == json.loads(made.model_dump_json())
    (one,) = made.artifacts
    assert one.published
    assert made.torch_ap > 0.5
    assert one.ap == pytest.approx(made.torch_ap, abs=0.001)
    assert one.benchmark.executed.keys() == {"float32"}
    assert one.benchmark.runtime.startswith("onnxruntime ")
    assert one.benchmark.engine["detector"].p50 > 0
    assert one.benchmark.end_to_end.p50 > 0
    assert (folder / "model.onnx").stat().st_size == one.size_bytes
    refuse_lossy(made)


def test_the_file_describes_itself(artifacts, teacher) -> None:
    card = load_artifact(artifacts[1] / "model.onnx", threads=1).card
    assert card.classes == teacher.classes
    assert (card.preprocessing.resize, card.preprocessing.shortest_edge) == ("shortest_edge", 256)
    assert (card.preprocessing.height, card.preprocessing.width) == teacher.transform.plan(*SIZE).resized


def test_images_of_any_shape_get_the_boxes_of_torch(artifacts, teacher) -> None:
    artifact = load_artifact(artifacts[1] / "model.onnx", threads=1)
    images = [scene(40, SIZE), scene(41, (192, 256))]
    for image, found, expected in zip(images, predictions(artifact, images), predictions(teacher, images), strict=True):
        assert_same(found, expected, size=image.shape[:2])
    assert len(predictions(artifact, [scene(42, (130, 60))])[0]) > 0, "a portrait is reduced to fit"


WITHOUT_TORCH = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "engine", "transformers", "scipy", "cv2"):
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(("size", "orientation"), [(SIZE, 1), ((150, 100), 1), ((300, 330), 1), ((150, 100), 6)])
def test_the_example_gives_the_same_boxes_without_torch(artifacts, tmp_path, size, orientation) -> None:
    folder = artifacts[1]
    source = (folder / "detect.py").read_text()
    assert len(source.splitlines()) < 60
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = scene(50, size)
    stored = np.rot90(picture) if orientation == 6 else picture  # 6: turned by 90 degrees clockwise when shown
    Image.fromarray(stored).save(tmp_path / "image.png", exif=exif)
    command = [sys.executable, "-c", WITHOUT_TORCH, "detect.py", "model.onnx", str(tmp_path / "image.png"), "0"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    (expected,) = predictions(load_artifact(folder / "model.onnx", threads=1), [picture])
    assert len(lines) == len(expected) > 0
    classes = load_artifact(folder / "model.onnx", threads=1).classes
    found = Detections(
        boxes_xyxy=np.array([line["box"] for line in lines], np.float32),
        scores=np.array([line["score"] for line in lines], np.float32),
        class_indices=np.array([classes.index(line["class"]) for line in lines]),
    )
    assert_same(found, expected, size=size, tolerance=2e-3)  # printed with four and one digits


def test_an_artifact_predicts_and_is_evaluated_by_the_commands(artifacts, data, tmp_path) -> None:
    made, folder = artifacts
    file = str(folder / "model.onnx")
    arguments = ["predict", "--artifact", file, "--images", str(data.parent / "images"), "--threshold", "0"]
    done = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / "labels.json")])
    assert done.exit_code == 0, done.output
    labels = json.loads((tmp_path / "labels.json").read_text())
    assert len(labels["annotations"]) > 0
    arguments = ["evaluate", "--artifact", file, "--data", str(data), "--images", str(data.parent / "images"), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["ap"] == pytest.approx(made.artifacts[0].ap, abs=1e-9)
    done = CliRunner().invoke(app, ["benchmark", "--artifact", file, "--threads", "2", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["threads"] == 2


def test_the_validation_images_of_the_run_are_measured(run, data, teacher, tmp_path) -> None:
    split = run / "teachers" / "grounding_dino_lora" / "splits.json"
    listed = {"train": ["0.png", "1.png"], "val": ["2.png", "5.png"]}
    split.write_text(
        json.dumps(
            {"splits": {name: [{"file_name": one, "content": ""} for one in files] for name, files in listed.items()}}
        )
    )
    try:
        found = measuring_images(
            teacher,
            str(data),
            str(data.parent / "images"),
            uri=str(split.parent),
            crowds=Crowds.IGNORE,
            exif_orientation=ExifOrientation.AUTO,
            storage=Storage(),
            cache=tmp_path,
        )
    finally:
        split.unlink()
    assert found.split == "val"
    assert [image.file_name for image in found.dataset.images] == ["2.png", "5.png"]
    assert found.load(1).image.shape == (*SIZE, 3)


def test_a_student_is_exported_by_the_command_and_refused_with_exit_code_49(tmp_path, monkeypatch) -> None:
    student = random_student(("a", "b"), (64, 96))
    origin = Origin("random", "0" * 64, {}, student.classes, {}, student.settings, Frame.UPRIGHT)
    student.save(tmp_path / "student", origin)
    data = write_data(tmp_path, student, 3)
    command = ["optimize", "--student", str(tmp_path / "student"), "--data", str(data), "--threads", "1"]
    command += ["--images", str(data.parent / "images"), "--output", str(tmp_path / "edge")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(tmp_path / "edge" / "dfine")
    artifact = load_artifact(tmp_path / "edge" / "dfine" / "model.onnx", threads=1)
    assert_same(*(predictions(one, [scene(7, SIZE)])[0] for one in (artifact, student)), size=SIZE)
    monkeypatch.setattr(Workshop, "_ap", lambda self, artifact: (0.0, None))
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, ArtifactRefusedError)
    assert not (tmp_path / "edge" / "dfine" / "model.onnx").exists(), "the earlier file is not described any more"


def test_settings_are_tried_in_turn_and_then_the_artifact_is_refused_with_the_numbers(
    run, data, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(Workshop, "_ap", lambda self, artifact: (self.ap - 0.0031, None))
    output = tmp_path / "out"
    made = engine.optimize(run, data, data.parent / "images", output=output, formats=["onnx-fp16"], threads=1)
    (one,) = made.artifacts
    assert [attempt.setting for attempt in one.attempts] == ["fp16", "fp16 weights"]
    assert not one.published
    assert [file.name for file in (output / "grounding_dino").iterdir()] == ["artifacts.json"]
    with pytest.raises(ArtifactRefusedError, match=r"fp16 weights: AP 0\.\d{4}, \+0\.0031 lost.*--max-ap-drop"):
        refuse_lossy(made)
    assert ArtifactRefusedError.exit_code == 49


def test_a_higher_allowed_loss_accepts_the_first_setting(run, data, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Workshop, "_ap", lambda self, artifact: (self.ap - 0.0031, None))
    wanted = [{"format": "onnx-fp16", "max_ap_drop": 0.004}]
    made = engine.optimize(run, data, data.parent / "images", output=tmp_path, formats=wanted, threads=1)
    assert [attempt.setting for attempt in made.artifacts[0].attempts] == ["fp16"]
    assert made.artifacts[0].published


def test_a_loss_that_would_hide_a_useless_artifact_is_not_allowed(run, data, tmp_path) -> None:
    wanted = [{"format": "onnx", "max_ap_drop": 1}]
    with pytest.raises(DataError, match="an artifact that finds nothing would lose less than the allowed 1"):
        engine.optimize(run, data, data.parent / "images", output=tmp_path, formats=wanted)


def test_masks_that_cannot_be_measured_or_are_useless_are_not_published(tmp_path, monkeypatch) -> None:
    student = random_student(("a", "b"), (64, 96), masks=True)
    origin = Origin("random", "0" * 64, {}, student.classes, {}, student.settings, Frame.UPRIGHT)
    student.save(tmp_path / "student", origin)
    data = write_data(tmp_path, student, 2)
    given = {"images": data.parent / "images", "output": tmp_path / "out", "threads": 1}
    with pytest.raises(DataError, match=r"none of the 2 images has a mask of each of its objects.*student\.masks"):
        engine.optimize(student=tmp_path / "student", data=data, **given)

    def with_useless_masks(*args: Any, **options: Any) -> Evaluation:
        found = evaluate(*args, **options)
        return replace(found, metrics=found.metrics.model_copy(update={"mask_ap": 0.0005}))

    monkeypatch.setattr("engine.optimization.optimize.evaluate", with_useless_masks)
    with pytest.raises(DataError, match=r"mask AP 0\.0005 .* less than the allowed 0\.001"):
        engine.optimize(student=tmp_path / "student", data=data, **given)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["tensorrt", "coreml", "litert"])
def test_a_format_that_cannot_be_built_here_is_refused_with_the_command(tmp_path, kind) -> None:
    with pytest.raises(ConfigError, match=rf"--format {kind}: .*--format onnx"):
        engine.optimize("nowhere", "data.json", output=tmp_path, formats=[kind])


def test_without_the_packages_the_error_names_the_extra(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ConfigError, match=r"need nncf .*pip install 'teacher-finetune\[train,optimize\]'"):
        engine.optimize("nowhere", "data.json", output=tmp_path, formats=["onnx-int8"])


def test_the_packages_send_nothing_to_their_makers() -> None:
    code = """
import sys
from unittest.mock import MagicMock
from engine.optimization.packages import require
require("openvino"), require("nncf")
assert sys.modules["openvino_telemetry"] is None
from nncf.telemetry import telemetry
assert isinstance(telemetry, MagicMock) or telemetry is MagicMock, telemetry
from openvino.tools.ovc import telemetry_utils
assert "stub" in telemetry_utils.tm.__name__, telemetry_utils.tm
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"formats": ["onxx"]}, "onxx"),
        ({"formats": [{"format": "onnx", "max_ap_drop": 2}]}, "at most"),
        ({"threads": 0}, "threads must be a whole number from 1 to 1024"),
        ({"image_size": (16, 16)}, "from 32 to 8192"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_read(tmp_path, changes, said) -> None:
    with pytest.raises(ConfigError, match=said):
        engine.optimize("nowhere", "data.json", output=tmp_path, **changes)


def test_other_files_are_not_artifacts(artifacts, tmp_path) -> None:
    import onnx

    with pytest.raises(ConfigError, match="does not exist"):
        load_artifact(tmp_path / "model.onnx", threads=1)
    (tmp_path / "model.onnx").write_bytes(b"\0" * 50)
    with pytest.raises(ConfigError, match="cannot be loaded by ONNX Runtime"):
        load_artifact(tmp_path / "model.onnx", threads=1)
    shutil.copy(artifacts[1] / "model.onnx", tmp_path)
    model = onnx.load(tmp_path / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ConfigError, match="was not made by `teacher optimize`"):
        load_artifact(tmp_path / "model.onnx", threads=1)

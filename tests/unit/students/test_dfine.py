"""D-FINE as a student: sizes, saving and loading, prediction."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from tiny_student import learn_one_image
from transformers import AutoImageProcessor, AutoModelForObjectDetection

from engine.dataset.types import Frame, Sample
from engine.errors import BaseModelError, ConfigError
from engine.models.model import Origin
from engine.registry import StudentName
from engine.storage import Storage
from engine.students import DFine, load_student
from engine.students.dfine.settings import DFineSettings
from engine.text.plain_yaml import read_document

IMAGE = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
SAMPLE = Sample.of(IMAGE, [[10, 10, 50, 40], [60, 30, 80, 55]], [0, 1])


def settings(**changes: Any) -> DFineSettings:
    values = read_document(StudentName.DFINE.traits.default_text(), where="defaults").value
    values |= {"size": "femto", "image_size": [64, 96], "epochs": 1, "batch_size": 2, "warmup_fraction": 0}
    return DFineSettings.model_validate(values | changes)


def student(seed: int = 0, classes: tuple[str, ...] = ("red", "green"), **changes: Any) -> DFine:
    torch.manual_seed(seed)
    return DFine.load(None, classes=classes, settings=settings(**changes))


def save(one: DFine, folder: Path) -> Path:
    one.save(folder, Origin("random", "0" * 64, {}, one.classes, {}, one.settings, Frame.STORED))
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[DFine, Path]:
    one = student()
    return one, save(one, tmp_path_factory.mktemp("students") / "dfine")


@pytest.mark.parametrize("size", ["femto", "pico", "nano"])
def test_each_size_has_the_parameters_that_its_traits_say(size: str) -> None:
    one = student(classes=("a", "b", "c"), size=size, image_size=None)
    parameters = sum(parameter.numel() for parameter in one.model.parameters())
    assert parameters == pytest.approx(StudentName.DFINE.traits.sizes[size], rel=0.02)


def test_an_unknown_size_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="no size 'giant': there are femto, pico, nano, small, medium, large"):
        student(size="giant")


def test_an_image_size_with_fewer_positions_than_queries_is_refused() -> None:
    with pytest.raises(ConfigError, match="image_size 32 x 32 has 21 positions, and D-FINE chooses 60 queries"):
        student(image_size=[32, 32])


def test_loaded_from_its_folder_it_predicts_the_same(saved: tuple[DFine, Path]) -> None:
    one, folder = saved
    (before,), (after,) = one.predict([SAMPLE]), load_student(folder, device="cpu").predict([SAMPLE])
    np.testing.assert_array_equal(before.scores, after.scores)
    np.testing.assert_array_equal(before.boxes_xyxy, after.boxes_xyxy)
    assert load_student(folder).frame is Frame.STORED
    assert load_student(folder).classes == ("red", "green")


def test_a_student_of_a_run_is_found_in_a_bucket_too(saved: tuple[DFine, Path], tmp_path: Path) -> None:
    _, folder = saved
    run = tmp_path / "run"
    (run / "students").mkdir(parents=True)
    (run / "students" / "dfine").symlink_to(folder)
    assert load_student(run, storage=Storage()).classes == ("red", "green")


def test_transformers_alone_gives_the_same_boxes(saved: tuple[DFine, Path]) -> None:
    one, folder = saved
    model = AutoModelForObjectDetection.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        outputs = model(**processor(images=Image.fromarray(IMAGE), return_tensors="pt"))
    (found,) = processor.post_process_object_detection(outputs, threshold=0, target_sizes=[IMAGE.shape[:2]])
    (own,) = one.predict([SAMPLE])
    np.testing.assert_allclose(found["scores"][:20].numpy(), own.scores[:20], atol=1e-6)
    assert model.config.id2label == {0: "red", 1: "green"}


@pytest.mark.parametrize("damage", ["missing", "shape", "values", "card"])
def test_a_damaged_folder_is_refused(saved: tuple[DFine, Path], tmp_path: Path, damage: str) -> None:
    for file in saved[1].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    tensors = safetensors.torch.load_file(weights)
    name = "model.enc_output.0.weight"
    match damage:
        case "missing":
            weights.unlink()
        case "shape":
            safetensors.torch.save_file(tensors | {name: torch.zeros(3, 3)}, weights)
        case "values":
            safetensors.torch.save_file(tensors | {name: tensors[name] * torch.nan}, weights)
        case "card":
            card = json.loads((tmp_path / "student.json").read_text())
            (tmp_path / "student.json").write_text(json.dumps(card | {"student": "Other"}))
    with pytest.raises(BaseModelError):
        load_student(tmp_path)


def test_the_input_is_that_of_the_base(saved: tuple[DFine, Path], tmp_path: Path) -> None:
    one, folder = saved
    again = DFine.load(folder, classes=one.classes, settings=settings(size=None, image_size=None))
    assert again.image_size == one.image_size
    assert again.image_size == (again.transform.height, again.transform.width)
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    (damaged / "preprocessor_config.json").write_text('{"size": {"height": "high", "width": 96}}')
    with pytest.raises(BaseModelError, match=r"must be an object with height and width, 1 to 2048 pixels"):
        DFine.load(damaged, classes=one.classes, settings=settings(size=None, image_size=None))


def test_a_base_of_other_classes_keeps_all_but_its_heads(saved: tuple[DFine, Path]) -> None:
    one, folder = saved
    other = DFine.load(folder, classes=("a", "b", "c"), settings=settings(size=None))
    own, new = one.result_tensors(), other.result_tensors()
    kept = [name for name in own if own[name].shape == new[name].shape and torch.equal(own[name], new[name])]
    assert {name for name in own if name not in kept and "class_embed" not in name} == {
        "model.enc_score_head.weight",
        "model.enc_score_head.bias",
    }
    assert len(other.predict([SAMPLE])[0].class_indices) > 0
    assert other.predict([SAMPLE])[0].class_indices.max() == 2


def test_it_learns_one_image_and_its_average_follows() -> None:
    one = student(ema_decay=0.5)
    losses = learn_one_image(one, SAMPLE, 12)
    assert losses[-1] < 0.9 * losses[0]
    raw, averaged = one.model.state_dict(), one.averaged.state_dict()  # type: ignore[union-attr]
    name = "model.enc_output.0.weight"
    assert not torch.equal(raw[name], averaged[name])
    torch.testing.assert_close(raw[name], averaged[name], rtol=0, atol=0.02)


def test_a_step_is_repeated_exactly_from_its_tensors() -> None:
    one = student()
    learn_one_image(one, SAMPLE, 2)
    tensors = {name: tensor.clone() for name, tensor in one.training_tensors().items()}
    other = student(seed=9)
    other.begin_training(other.settings)
    other.load_training_tensors(tensors, what="test")
    assert all(torch.equal(tensors[name], value) for name, value in other.training_tensors().items())
    np.testing.assert_array_equal(one.predict([SAMPLE])[0].scores, other.predict([SAMPLE])[0].scores)


def test_before_its_training_it_predicts_nothing() -> None:
    one = student()
    with one.untrained():
        assert len(one.predict([SAMPLE])[0]) == 0
    assert len(one.predict([SAMPLE])[0]) > 0


def test_crowds_and_ignored_objects_are_no_targets() -> None:
    sample = Sample(
        image=IMAGE,
        boxes_xyxy=np.array([[0, 0, 9, 9], [9, 9, 30, 30], [5, 5, 50, 50]], np.float32),
        class_indices=np.array([0, 1, 1]),
        is_crowd=np.array([False, True, False]),
        annotation_indices=np.arange(3),
        scores=np.array([0.7, 1, 0.2], np.float32),
        is_ignored=np.array([False, False, True]),
    )
    example = student().example(sample, np.random.default_rng(0))
    assert example["labels"].tolist() == [0]
    assert example["scores"].tolist() == pytest.approx([0.7])
    assert example["ignored_labels"].tolist() == [1, 1]
    assert example["ignored_crowds"].tolist() == [True, False]


def test_an_image_without_objects_has_a_loss() -> None:
    one = student()
    one.begin_training(one.settings)
    one.set_training(True)
    batch = one.collate([one.example(Sample.of(IMAGE), np.random.default_rng(0))])
    losses = one.loss(batch, count=1)
    losses["loss"].backward()
    assert losses["vfl"] > 0
    assert losses["l1"] == losses["fgl"] == 0

"""Students with masks: decided by the data, trained, resumed, published and measured."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from killed import attempt, published
from PIL import Image, ImageDraw
from tiny_student import SETTINGS, distill_config, publish_in
from toy import toy_sample, write_toy_data
from typer.testing import CliRunner

from engine.cli.app import app
from engine.config import DistillConfig
from engine.config.data_checks import learns_masks
from engine.config.distill import generate_distill_config
from engine.dataset import folder_dataset, inspect_dataset, load_dataset, load_sample
from engine.dataset.predictions import load_predictions
from engine.dataset.teacher_labels import teacher_labels
from engine.errors import ConfigError
from engine.evaluation.evaluate import evaluate
from engine.labelling.predict_folder import predict_folder
from engine.layout import RunLayout
from engine.models.registry import REGISTRY
from engine.registry import StudentName
from engine.results.run_files import read_metadata
from engine.spec.distill import DistillSpec
from engine.storage import Storage
from engine.students import load_student
from engine.training import loop

both = pytest.mark.parametrize("trained", list(StudentName), indirect=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_data(tmp_path_factory.mktemp("masks") / "all.json", range(16), masks=True)


def resolved(data: Path, name: StudentName, **student: Any) -> Any:
    spec = {"dataset": {"annotations": str(data)}, "output": "/o", "student": {"name": name} | student}
    return generate_distill_config(inspect_dataset(data), DistillSpec.model_validate(spec)).students.of(name)


def planned(data: Path, output: Path, name: StudentName, **changes: Any) -> DistillConfig:
    config = distill_config(data, output=output, common={"log_seconds": 1e-6}, student=name, masks=True, **changes)
    Storage().write_bytes(RunLayout.of(config).dataset, inspect_dataset(data).model_dump_json().encode())
    return config


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> DistillConfig:
    folder = tmp_path_factory.mktemp("trained")
    return publish_in(folder, planned(data, folder / "output", request.param))


@pytest.mark.parametrize("name", list(StudentName))
def test_masks_are_learned_if_the_data_has_them(data: Path, tmp_path: Path, name: StudentName) -> None:
    boxes = write_toy_data(tmp_path / "boxes.json", range(8))
    assert resolved(data, name).masks is True
    assert resolved(data, name, masks=False).masks is False
    assert resolved(boxes, name).masks is False
    with pytest.raises(ConfigError, match=r"masks is true, but .*boxes\.json has too few"):
        resolved(boxes, name, masks=True)


def test_a_student_without_masks_never_learns_them(data: Path) -> None:
    name: Any = SimpleNamespace(traits=SimpleNamespace(can_learn_masks=False))
    assert learns_masks(inspect_dataset(data), name, asked=None) is False
    with pytest.raises(ConfigError, match=r"masks is true, but .* learns boxes alone"):
        learns_masks(inspect_dataset(data), name, asked=True)


def test_the_flag_is_the_field_of_the_manifest(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def caught(manifest: Any, **options: Any) -> None:
        asked.append(manifest.spec)
        raise ConfigError("caught")

    monkeypatch.setattr("engine.cli.distill.complete_run", caught)
    for flag in ("--masks", "--no-masks"):
        CliRunner().invoke(app, ["distill", "--data", str(data), "--output", str(tmp_path), flag])
    assert [spec.settings["students.*.masks"] for spec in asked] == ["true", "false"]


@both
def test_it_is_published_with_its_mask_ap(trained: DistillConfig) -> None:
    (result,) = read_metadata(RunLayout.of(trained), Storage()).teachers
    assert result.after.mask_ap is not None
    assert 0 <= result.after.mask_ap <= 1
    student = load_student(RunLayout.of(trained).root, device="cpu")
    (found,) = student.predict([toy_sample(0)])
    assert found.masks is not None
    assert len(found.masks) == len(found) > 0
    assert "mask AP" in Path(RunLayout.of(trained).report).read_text()


@both
@pytest.mark.slow
def test_killed_it_ends_the_same(
    data: Path, trained: DistillConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "checkpoint_interval", lambda cost: 0.0)
    (name,) = trained.students.names
    config = planned(data, tmp_path / "output", name)
    exit_code, moments, _ = attempt(config, tmp_path / "work", die_at=60, by=signal.SIGKILL, teacher=name)
    assert exit_code == -signal.SIGKILL, moments
    assert list(Path(RunLayout.of(config).teacher(name), "last").glob("checkpoint-*"))
    exit_code, _, said = attempt(config, tmp_path / "another machine", teacher=name)
    assert (exit_code, said) == (0, "")
    expected, found = published(trained), published(config)
    for files in (expected, found):
        files[name].pop("step_memory_bytes")
    assert found == expected


@both
def test_predicted_masks_are_the_targets_of_the_next_student(trained: DistillConfig, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(toy_sample(99).image).save(images / "99.png")
    labels = tmp_path / "labels.json"
    student, storage = load_student(RunLayout.of(trained).root, device="cpu"), Storage()
    dataset = folder_dataset(str(images), student.classes, storage=storage)
    seen = predict_folder(student, dataset, str(images), threshold=0.0, batch_size=1, overlays=None, storage=storage)
    labels.write_text(json.dumps(seen.coco))
    found = load_predictions(str(labels), storage=Storage())
    assert found.has_masks
    (objects,) = teacher_labels(found, ("red", "green"), min_score=0, soft=True, where="labels").annotations
    assert all(one.segmentation for one in objects)


@both
def test_the_commands_write_and_measure_its_masks(trained: DistillConfig, data: Path, tmp_path: Path) -> None:
    root, labels = RunLayout.of(trained).root, tmp_path / "labels.json"
    arguments = ["predict", "--student", root, "--images", str(data.parent), "--output", str(labels)]
    done = CliRunner().invoke(app, [*arguments, "--threshold", "0"])
    assert done.exit_code == 0, done.output
    found = json.loads(labels.read_text())["annotations"]
    assert found
    assert all(one["segmentation"]["size"] for one in found)
    done = CliRunner().invoke(app, ["evaluate", "--student", root, "--data", str(data), "--json"])
    assert done.exit_code == 0, done.output
    assert 0 <= json.loads(done.stdout)["mask_ap"] <= 1


def drawn(file: Path, images: int) -> Path:
    """A disc or a triangle of random place and size on the noise of each image, with its polygon."""
    found, annotations = [], []
    for index in range(images):
        rng = np.random.default_rng([11, index])
        image = Image.fromarray(rng.integers(0, 60, (64, 64, 3), dtype=np.uint8))
        radius, label = float(rng.integers(14, 24)), int(rng.integers(2))
        turns = np.linspace(0, 2 * np.pi, 24 if label else 3, endpoint=False) - np.pi / 2
        points = rng.uniform(radius, 64 - radius, 2) + radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)
        ImageDraw.Draw(image).polygon([tuple(point) for point in points.tolist()], fill=(60, 220, 90))
        image.save(file.parent / f"{index}.png")
        low, side = points.min(0), np.ptp(points, axis=0)
        found.append({"id": index, "file_name": f"{index}.png", "width": 64, "height": 64})
        annotations.append(
            {
                "id": index + 1,
                "image_id": index,
                "category_id": label + 1,
                "bbox": [*low.tolist(), *side.tolist()],
                "area": float(side.prod()),
                "iscrowd": 0,
                "segmentation": [points.ravel().tolist()],
            }
        )
    categories = [{"id": 1, "name": "triangle"}, {"id": 2, "name": "disc"}]
    file.write_text(json.dumps({"images": found, "annotations": annotations, "categories": categories}))
    return file


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes", "steps"),
    [(StudentName.DFINE, {"denoising": 0}, 200), (StudentName.RF_DETR, {}, 150)],
)
def test_it_learns_masks_of_shapes_that_it_was_not_trained_on(
    tmp_path: Path, name: StudentName, changes: dict[str, Any], steps: int
) -> None:
    dataset = load_dataset(str(drawn(tmp_path / "all.json", 120)), None, storage=Storage())
    paths = [tmp_path / image.file_name for image in dataset.images]
    torch.manual_seed(0)
    settings = SETTINGS[name](masks=True, ema_decay=0.9, **changes)
    one: Any = REGISTRY[name].load(None, classes=dataset.classes, settings=settings)
    one.begin_training(one.settings)
    samples = [load_sample(dataset, i, paths[i], with_masks=True) for i in range(90)]
    rng = np.random.default_rng(0)
    examples = [one.example(sample, rng) for sample in samples]
    optimizer = torch.optim.AdamW(one.trained_parameters().values(), lr=2e-3, weight_decay=1e-4)
    one.set_training(True)
    for step in range(1, steps + 1):
        batch = one.collate([examples[i] for i in rng.choice(90, 8, replace=False)])
        one.loss(batch, count=one.count(batch))["loss"].backward()
        torch.nn.utils.clip_grad_norm_(list(one.trained_parameters().values()), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        one.after_step(step)
    one.set_training(False)
    unseen = dataset.subset(list(range(90, 120)))
    metrics = evaluate(
        one, unseen, lambda i: load_sample(dataset, 90 + i, paths[90 + i], with_masks=False), batch_size=8
    ).metrics
    assert metrics.mask_ap is not None
    assert metrics.mask_ap > 0.4
    # With boxes for masks a triangle, which fills half of its box, would be missed from an IoU of 0.5 on.
    assert metrics.mask_ap > metrics.ap

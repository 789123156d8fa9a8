"""What is not adapted is computed once: the same results, whatever is found, lost or damaged."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from tiny import BASE
from tiny import random_teacher as random_detector
from tiny_sam import random_sam

from engine.config import LoraSettings
from engine.dataset import Sample
from engine.errors import ConfigError
from engine.models.feature_cache import FeatureCache, picture
from engine.models.lora import attach, set_training, trainable_parameters
from engine.spec import LoraPreset
from engine.teachers import Teacher
from engine.teachers.sam.model import Sam

MEGABYTE = 1_000_000


def cache(folder: Path, *, limit: int = 100 * MEGABYTE, **identity: str) -> FeatureCache:
    return FeatureCache(folder, identity=identity, limit=limit)


def image(seed: int, height: int = 60, width: int = 80) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def pixels(shown: np.ndarray) -> np.ndarray:
    return shown.transpose(2, 0, 1).astype(np.float32)


class Counted:
    """Computes, and counts how often."""

    times = 0

    def __call__(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        self.times += 1
        return {"states": pixel_values[0] / 3, "mask": pixel_values[0] > 7}


def through(features: FeatureCache, shown: np.ndarray, compute: Any, slot: str | None = None) -> Any:
    return features.of({**picture(features, shown, pixels), "slot": slot}, compute)


def test_features_are_computed_once_and_are_the_same_before_and_after(tmp_path: Path) -> None:
    compute = Counted()
    first = through(cache(tmp_path), image(0), compute)
    again = through(cache(tmp_path), image(0), compute)
    other = through(cache(tmp_path), image(1), compute)
    assert compute.times == 2
    assert first["states"].dtype == again["states"].dtype == torch.float16
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["states"], other["states"])


def test_what_follows_from_something_else_is_something_else(tmp_path: Path) -> None:
    compute = Counted()
    through(cache(tmp_path, base="a", layers="1"), image(0), compute)
    through(cache(tmp_path, base="b", layers="1"), image(0), compute)
    through(cache(tmp_path, base="a", layers="2"), image(0), compute)
    through(cache(tmp_path, base="a", layers="1"), image(0)[:, ::-1], compute)
    assert compute.times == 4


def test_numbers_that_16_bits_cannot_hold_stay_as_they_are(tmp_path: Path) -> None:
    def huge(pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"states": pixel_values[0] * 1e6}

    assert torch.equal(through(cache(tmp_path), image(0), huge)["states"], torch.from_numpy(pixels(image(0))) * 1e6)


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied"])
def test_a_damaged_entry_is_computed_again(tmp_path: Path, damage: str) -> None:
    compute = Counted()
    whole = through(cache(tmp_path), image(0), compute)
    (file,) = tmp_path.rglob("*.safetensors")
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[-5] ^= 1
    file.write_bytes({"cut": content[:-100], "flipped": content, "emptied": b""}[damage])
    assert torch.equal(through(cache(tmp_path), image(0), compute)["states"], whole["states"])
    assert compute.times == 2
    through(cache(tmp_path), image(0), compute)
    assert compute.times == 2


def test_no_more_is_kept_than_there_is_room_for(tmp_path: Path) -> None:
    size = sum(t.nbytes for t in through(cache(tmp_path / "other"), image(0), Counted()).values())
    features, compute = cache(tmp_path, limit=int(3.5 * size) + 4096), Counted()
    for _ in range(2):
        for seed in range(6):
            through(features, image(seed), compute)
    kept = sum(file.stat().st_size for file in features.folder.iterdir())
    assert kept <= features.limit
    assert compute.times == 6 + 3, "three were kept, and these stay"


def test_what_no_run_uses_any_more_makes_room_in_its_own_folder_too(tmp_path: Path) -> None:
    size = sum(t.nbytes for t in through(cache(tmp_path / "other"), image(0), Counted()).values())
    for run in ("old", "same"):
        earlier = cache(tmp_path / "all", limit=8 * size, run=run)
        for seed in range(3):
            through(earlier, image(seed), Counted())
    long_ago = time.time() - 1000
    for file in (tmp_path / "all").rglob("*.safetensors"):
        os.utime(file, (long_ago, long_ago))
    (earlier.folder / ".half").write_bytes(bytes(2 * size))
    os.utime(earlier.folder / ".half", (long_ago - 1, long_ago - 1))
    now = cache(tmp_path / "all", limit=8 * size, run="same")
    through(now, image(0), Counted())  # used again: it stays
    compute = Counted()
    for _ in range(2):
        for seed in range(10, 16):
            through(now, image(seed), compute)
    assert compute.times == 6
    assert now.get(now.key(image(0))) is not None
    assert not (earlier.folder / ".half").exists()
    assert "computed for 6 views" in str(now)


def test_a_run_whose_entries_another_has_thrown_away_keeps_them_anew(tmp_path: Path) -> None:
    features, compute = cache(tmp_path), Counted()
    through(features, image(0), compute)
    shutil.rmtree(features.folder)
    for _ in range(3):
        through(features, image(0), compute)
    assert compute.times == 2


def test_one_entry_serves_whatever_a_run_computes_in(tmp_path: Path) -> None:
    def product(pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"states": pixel_values[0].flatten(1) @ pixel_values[0].flatten(1).T}

    whole = through(cache(tmp_path / "1"), image(0), product)
    with torch.autocast("cpu", torch.bfloat16):
        half = through(cache(tmp_path / "2"), image(0), product)
    assert torch.equal(whole["states"], half["states"])


def test_a_view_that_no_longer_comes_is_thrown_away(tmp_path: Path) -> None:
    features = cache(tmp_path)
    for seed in range(5):
        through(features, image(seed), Counted(), slot="7/0")
        through(features, image(100), Counted(), slot="7/1")
    assert len(list(features.folder.iterdir())) == 2


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    features, compute = cache(tmp_path), Counted()
    features.folder.write_text("a file in its place")
    for _ in range(2):
        through(features, image(0), compute)
    assert compute.times == 2


def write_many(folder: Path, start: Any) -> None:
    features = cache(folder)
    start.wait()
    for seed in range(20):
        found = through(features, image(seed), Counted())
        assert torch.equal(found["states"], (torch.from_numpy(pixels(image(seed))) / 3).half())


def test_processes_share_the_entries(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Barrier(2)
    both = [context.Process(target=write_many, args=(tmp_path, start)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert len(list(cache(tmp_path).folder.iterdir())) == 20, "and no half-written ones"


def lora(preset: LoraPreset, skip_layers: int = 0) -> LoraSettings:
    return LoraSettings(preset=preset, rank=4, alpha=8, dropout=0.0, skip_layers=skip_layers)


def detector(settings: LoraSettings) -> Teacher:
    teacher = random_detector(classes=("circle", "square"))
    torch.manual_seed(1)
    attach(teacher, settings)
    return awake(teacher)


def sam(settings: LoraSettings) -> Teacher:
    with TemporaryDirectory() as folder:
        teacher = random_sam(Path(folder))
    torch.manual_seed(1)
    attach(teacher, settings)
    return awake(teacher)


def awake(teacher: Teacher) -> Teacher:
    """With an adapter that does something."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in trainable_parameters(teacher).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return teacher


def sample(seed: int, height: int, width: int) -> Sample:
    rng = np.random.default_rng(seed)
    boxes = [[5, 6, 30, 40], [20, 10, 50, 45]]
    masks = np.zeros((2, height, width), np.bool_)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return Sample(
        image=rng.integers(0, 255, (height, width, 3), np.uint8),
        boxes_xyxy=np.asarray(boxes, np.float32),
        class_indices=np.array([0, 1]),
        is_crowd=np.zeros(2, np.bool_),
        annotation_indices=np.arange(2),
        masks=masks,
    )


def step(teacher: Teacher, samples: list[Sample]) -> tuple[float, dict[str, torch.Tensor]]:
    set_training(teacher, True)
    batch = teacher.collate([teacher.example(s, np.random.default_rng(3)) for s in samples])
    teacher.model.zero_grad()
    loss = teacher.loss(batch, count=4.0)["loss"]
    loss.backward()
    return float(loss), {
        name: p.grad.clone() for name, p in trainable_parameters(teacher).items() if p.grad is not None
    }


FROZEN = [
    pytest.param(detector, lora(LoraPreset.DECODER), id="detector, decoder"),
    pytest.param(detector, lora(LoraPreset.ENCODER_DECODER), id="detector, both"),
    pytest.param(detector, lora(LoraPreset.ALL, 1), id="detector, late"),
    pytest.param(sam, lora(LoraPreset.DECODER), id="sam, decoder"),
    pytest.param(sam, lora(LoraPreset.ENCODER_DECODER, 1), id="sam, late"),
    pytest.param(sam, lora(LoraPreset.ENCODER_DECODER, 3), id="sam, neck"),
]


@pytest.mark.parametrize(("make", "settings"), FROZEN)
def test_a_step_with_features_is_that_of_each_image_without(
    tmp_path: Path, make: Any, settings: LoraSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "engine.models.feature_cache._rounded", lambda tensor: tensor
    )  # else the best queries are others
    samples = [sample(0, 60, 80), sample(1, 60, 80), sample(2, 80, 64)]
    plain = [step(make(settings), [some]) for some in samples]
    teacher = make(settings)
    teacher.features = cache(tmp_path, **teacher.frozen())
    first_loss, first = step(teacher, samples)
    found_loss, found = step(teacher, samples)
    assert found_loss == first_loss, "found or computed makes no difference"
    assert all(torch.equal(found[name], gradient) for name, gradient in first.items())
    assert first_loss == pytest.approx(sum(loss for loss, _ in plain), rel=1e-4)
    for name, gradient in first.items():
        expected = sum(gradients[name] for _, gradients in plain)
        assert (gradient - expected).norm() <= 1e-3 * expected.norm() + 1e-4, name


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize(("make", "settings"), FROZEN)
def test_found_or_computed_makes_no_difference(
    tmp_path: Path, make: Any, settings: LoraSettings, bfloat16: bool
) -> None:
    samples = [sample(0, 60, 80), sample(2, 80, 64)]
    teacher = make(settings)
    teacher.features = cache(tmp_path, **teacher.frozen())
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        step(teacher, samples[1:])  # one of them is there already
        first_loss, first = step(teacher, samples)
        found_loss, found = step(teacher, samples)
    assert found_loss == first_loss
    assert all(torch.equal(found[name], gradient) for name, gradient in first.items())


@pytest.mark.parametrize("settings", [lora(LoraPreset.DECODER), lora(LoraPreset.ENCODER_DECODER)])
def test_a_step_does_not_depend_on_how_it_is_cut(settings: LoraSettings) -> None:
    samples = [sample(0, 60, 80), sample(2, 80, 64), sample(1, 40, 80)]
    together_loss, together = step(detector(settings), samples)
    apart = [step(detector(settings), [some]) for some in samples]
    assert together_loss == pytest.approx(sum(loss for loss, _ in apart), rel=1e-4)
    for name, gradient in together.items():
        expected = sum(gradients[name] for _, gradients in apart)
        assert (gradient - expected).norm() <= 1e-3 * expected.norm() + 1e-4, name


@pytest.mark.parametrize(("make", "settings"), FROZEN)
def test_predictions_with_features_are_those_without(tmp_path: Path, make: Any, settings: LoraSettings) -> None:
    samples = [sample(0, 60, 80), sample(1, 60, 80), sample(2, 80, 64)]
    teacher = make(settings)
    expected = teacher.predict(samples)
    teacher.features = cache(tmp_path, **teacher.frozen())
    for _ in range(2):
        for before, after in zip(expected, teacher.predict(samples), strict=True):
            np.testing.assert_allclose(np.sort(after.scores), np.sort(before.scores), atol=0.01)


@pytest.mark.parametrize(("make", "settings"), FROZEN)
def test_what_was_computed_before_is_not_computed_again(tmp_path: Path, make: Any, settings: LoraSettings) -> None:
    teacher = make(settings)
    teacher.features = cache(tmp_path, **teacher.frozen())
    step(teacher, [sample(0, 60, 80)])
    body = teacher.model.get_base_model()
    first = body.vision_encoder.patch_embed if isinstance(teacher, Sam) else body.model.backbone.conv_encoder

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the frozen part runs again")

    first.forward = fail
    step(teacher, [sample(0, 60, 80)])


@pytest.mark.parametrize("make", [detector, sam])
def test_where_the_first_layer_is_adapted_nothing_is_kept(make: Any) -> None:
    assert make(lora(LoraPreset.ALL)).frozen() is None


@pytest.mark.parametrize("make", [detector, sam])
def test_no_layer_before_those_that_are_skipped_is_adapted(make: Any) -> None:
    names = list(trainable_parameters(make(lora(LoraPreset.ALL, 1))))
    assert names
    for name in names:
        assert "backbone" not in name
        assert "text_projection" not in name
        assert "encoder.layers.0." not in name


def test_more_layers_than_there_are_cannot_be_skipped() -> None:
    with pytest.raises(ConfigError, match=r"skip_layers is 99, and the encoder has \d+ layers"):
        sam(lora(LoraPreset.ALL, 99))


def test_bert_reads_a_caption_once_and_as_the_library_does() -> None:
    from transformers import GroundingDinoForObjectDetection

    from engine.teachers.grounding_dino.caption_cache import cache_captions

    plain = GroundingDinoForObjectDetection.from_pretrained(BASE).eval()
    quick = GroundingDinoForObjectDetection.from_pretrained(BASE).eval()
    cache_captions(quick)
    ids = torch.tensor([[101, 7, 1012, 9, 1012, 102], [101, 8, 1012, 102, 0, 0]])
    inputs = {"pixel_values": torch.rand(2, 3, 96, 96), "input_ids": ids, "attention_mask": (ids > 0).long()}
    with torch.no_grad():
        expected = plain(**inputs)
        for _ in range(2):
            seen = quick(**inputs)
            real = inputs["attention_mask"].bool()
            torch.testing.assert_close(
                seen.encoder_last_hidden_state_text[real], expected.encoder_last_hidden_state_text[real]
            )
            quick.model.text_backbone.embeddings.forward = None  # it is not asked again

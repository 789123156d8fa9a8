from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from loops import nonempty
from PIL import Image
from pycocotools import mask as coco_mask
from safetensors.torch import load_file, save_file
from segment_anything import SamPredictor
from segment_anything.utils.transforms import ResizeLongestSide
from tiny_sam import IMAGE_SIZE, original_sam, random_sam, sam_settings, save_sam, scene
from torch import nn
from transformers import SamConfig, SamModel

import engine.models.prompted_masks
import engine.teachers.sam.model
from engine.config import LoraSettings
from engine.dataset import load_dataset, load_sample
from engine.dataset.images.preprocessing import MEAN, STD
from engine.dataset.types import Sample
from engine.errors import BaseModelError
from engine.models.detected_boxes import with_detected
from engine.models.lora import attach, merged, trainable_parameters
from engine.models.registry import REGISTRY
from engine.spec import LoraPreset, TeacherName
from engine.teachers.sam.model import Sam

SIZES = [(48, 80), (100, 37), (64, 64)]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Sam:
    """A base; tests do not change it."""
    return random_sam(tmp_path_factory.mktemp("base"))


def adapted(folder: Path, preset: LoraPreset = LoraPreset.ALL, **changes: object) -> Sam:
    """A teacher with an adapter that changes its outputs."""
    teacher = random_sam(folder, **changes)
    attach(teacher, LoraSettings(preset=preset, rank=4, alpha=8, dropout=0))
    for name, parameter in trainable_parameters(teacher).items():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
        elif "modules_to_save" in name:
            parameter.data += 0.05 * torch.randn_like(parameter)
    return teacher


def batch_of(teacher: Sam, samples: list[Sample], seed: int = 0):
    return teacher.collate([teacher.example(s, np.random.default_rng((seed, i))) for i, s in enumerate(samples)])


def masks_of(detections) -> np.ndarray:
    return coco_mask.decode(detections.masks).transpose(2, 0, 1).astype(bool)


def test_the_teacher_is_known_by_its_name() -> None:
    assert REGISTRY[TeacherName.SAM] is Sam
    assert (Sam.iou_type, Sam.needs_masks) == ("segm", True)


def test_a_base_is_loaded_frozen_in_eval_mode_and_32_bit(tmp_path: Path) -> None:
    folder = save_sam(tmp_path)
    SamModel.from_pretrained(folder).bfloat16().save_pretrained(folder)
    loaded = Sam.load(folder, classes=("a",), prompts={}, settings=sam_settings())
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert not loaded.model.training


def of_another_kind(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))


def without_a_weight(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["mask_decoder.iou_token.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (of_another_kind, "'bert' model"),
        (without_a_weight, "mask_decoder.iou_token.weight"),
        (without_weights, "no SAM that can be loaded"),
    ],
)
def test_a_folder_without_a_whole_sam_is_refused(tmp_path: Path, spoil, message: str) -> None:
    folder = save_sam(tmp_path)
    spoil(folder)
    with pytest.raises(BaseModelError, match=message):
        Sam.load(folder, classes=("a",), prompts={}, settings=sam_settings())


@pytest.mark.parametrize("size", SIZES)
def test_images_are_prepared_as_sam_predictor_prepares_them(teacher: Sam, size: tuple[int, int]) -> None:
    image = scene(size=size).image
    resized = torch.from_numpy(ResizeLongestSide(IMAGE_SIZE).apply_image(image)).permute(2, 0, 1)
    expected = original_sam().preprocess(resized.float())
    ours = torch.from_numpy(teacher.transform.image(image))
    height, width = resized.shape[1:]
    values = ours[:, :height, :width] * STD[:, None, None] + MEAN[:, None, None]
    assert (values - resized / 255).abs().max() < 1 / 255
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
    # In the padding both are zero after normalisation.
    assert not ours[:, height:].any()
    assert not ours[:, :, width:].any()


@pytest.mark.parametrize("size", SIZES)
def test_masks_and_scores_are_those_of_sam_predictor(teacher: Sam, size: tuple[int, int]) -> None:
    sample = scene(4, size=size)
    predictor = SamPredictor(original_sam())
    predictor.set_image(sample.image)
    boxes = predictor.transform.apply_boxes_torch(torch.from_numpy(sample.boxes_xyxy), size)
    masks, ious, _ = predictor.predict_torch(None, None, boxes=boxes, multimask_output=False)
    seen = teacher.predict([sample])[0]
    assert len(seen) > 0
    for mask, score, prompt in zip(nonempty(masks_of(seen)), seen.scores, seen.prompt_indices, strict=True):
        assert (mask ^ masks[prompt, 0].numpy()).mean() < 1e-3
        assert score == pytest.approx(float(ious[prompt, 0].clamp(0, 1)), abs=1e-4)


def test_every_box_but_a_crowd_is_a_prompt_and_the_highest_score_comes_first(teacher: Sam) -> None:
    sample = scene(6, crowds=(1, 3))
    seen = teacher.predict([sample])[0]
    assert set(seen.prompt_indices.tolist()) <= {0, 2, 4, 5}
    assert (np.diff(seen.scores) <= 0).all()
    assert ((seen.scores >= 0) & (seen.scores <= 1)).all()
    assert seen.class_indices.tolist() == sample.class_indices[seen.prompt_indices].tolist()
    for mask, box in zip(nonempty(masks_of(seen)), seen.boxes_xyxy, strict=True):
        rows, columns = np.nonzero(mask)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_a_mask_without_a_pixel_is_no_detection(tmp_path: Path) -> None:
    teacher = random_sam(tmp_path)
    decode = teacher._decode
    teacher._decode = lambda *args, **prompts: (decode(*args, **prompts)[0].abs().neg(), decode(*args, **prompts)[1])
    seen = teacher.predict([scene(3)])[0]
    assert len(seen) == len(seen.masks) == len(seen.prompt_indices) == 0
    assert seen.boxes_xyxy.shape == (0, 4)


def test_what_is_seen_in_an_image_does_not_depend_on_those_beside_it(teacher: Sam, monkeypatch) -> None:
    samples = [scene(3, seed=1), scene(0), scene(5, size=(100, 37), seed=2), scene(2, crowds=(0, 1))]
    together = teacher.predict(samples)
    assert [len(seen) for seen in together][1::2] == [0, 0]
    monkeypatch.setattr(engine.teachers.sam.model, "PROMPTS_AT_ONCE", 2)
    monkeypatch.setattr(engine.models.prompted_masks, "PIXELS_AT_ONCE", 1)
    for sample, seen in zip(samples, together, strict=True):
        alone = teacher.predict([sample])[0]
        assert alone.prompt_indices.tolist() == seen.prompt_indices.tolist()
        np.testing.assert_allclose(alone.scores, seen.scores, atol=1e-5)
        if len(seen):
            assert (masks_of(alone) ^ masks_of(seen)).mean() < 1e-3


def test_an_example_has_a_prompt_and_a_target_for_each_drawn_object(teacher: Sam) -> None:
    sample = scene(9, crowds=(2,))
    example = teacher.example(sample, np.random.default_rng(0))
    count = 8
    assert example["pixel_values"].shape == (3, IMAGE_SIZE, IMAGE_SIZE)
    assert example["boxes"].shape == (count, 4)
    assert example["masks"].shape == (count, 32, 32)
    # Of an 80 pixel wide image in 64 pixels: points lie on cells that are covered, boxes around them.
    for box, point, mask in zip(example["boxes"], example["points"], example["masks"], strict=True):
        assert mask[int(point[1] / 2), int(point[0] / 2)] > 0
        rows, columns = np.nonzero(mask.numpy() > 0.5)
        middle = (box[:2] + box[2:]) / 4
        assert abs(middle - torch.tensor([columns.mean(), rows.mean()])).max() < 2
    assert not example["masks"][:, 48 * 32 // 80 + 1 :].any(), "the padding is no object"


def test_a_hole_is_no_part_of_its_object_and_a_crowd_is_no_object(teacher: Sam, tmp_path: Path) -> None:
    """As the annotations have them: run lengths with a hole, and a crowd that lies in it."""
    ring = np.zeros((64, 64), np.uint8)
    ring[8:56, 8:56] = 1
    ring[20:44, 20:44] = 0
    hole = np.zeros((64, 64), np.uint8)
    hole[20:44, 20:44] = 1
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "0.png")
    found = [
        {
            "id": i,
            "image_id": 0,
            "category_id": 1,
            "iscrowd": i,
            "bbox": [float(v) for v in coco_mask.toBbox(rle)],
            "area": float(mask.sum()),
            "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
        }
        for i, mask in enumerate((ring, hole))
        for rle in [coco_mask.encode(np.asfortranarray(mask))]
    ]
    images = [{"id": 0, "file_name": "0.png", "width": 64, "height": 64}]
    coco = {"images": images, "annotations": found, "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "all.json").write_text(json.dumps(coco))
    dataset = load_dataset(tmp_path / "all.json")
    assert teacher.select(dataset.annotations[0], 0).tolist() == [0]
    sample = load_sample(dataset, 0, tmp_path / "0.png", with_masks=True)
    for seed in range(20):
        example = teacher.example(sample, np.random.default_rng(seed))
        assert len(example["masks"]) == 1
        assert not example["masks"][0, 10:22, 10:22].any(), "the hole"
        assert example["masks"][0, 4:28, 4:28].sum() == 24**2 - 12**2
        column, row = example["points"][0].int().tolist()
        assert ring[row, column]


def test_a_detectors_boxes_take_the_place_of_true_ones_for_their_share(tmp_path: Path) -> None:
    sample = scene(40, size=(64, 64))
    boxes = sample.boxes_xyxy + np.float32(0.25)
    boxes[:10] = np.nan
    both = with_detected(sample, boxes)
    shares = []
    for share in (0.0, 0.5, 1.0):
        teacher = random_sam(tmp_path, detector_share=share, box_jitter=0)
        given = teacher.example(both, np.random.default_rng(0))["boxes"].numpy()
        assert given[:10] == pytest.approx(sample.boxes_xyxy[:10]), "what was not found has its true box"
        shares.append(np.isclose(given[10:], boxes[10:]).all(axis=1).mean())
    assert shares[0] == 0
    assert 0.2 < shares[1] < 0.8
    assert shares[2] == 1


def test_the_share_of_points_is_that_of_the_settings(tmp_path: Path) -> None:
    teacher = random_sam(tmp_path, point_share=0.25, objects_per_image=100)
    rng = np.random.default_rng(0)
    drawn = torch.cat([teacher.example(scene(40), rng)["by_point"] for _ in range(20)])
    assert drawn.float().mean().item() == pytest.approx(0.25, abs=0.05)


def test_a_point_is_answered_by_three_masks_and_a_box_by_one(teacher: Sam) -> None:
    embeddings = teacher._embed({"pixel_values": torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE)}).expand(2, -1, -1, -1)
    logits, ious = teacher._decode(embeddings, points=torch.rand(2, 2) * 60, several=True)
    assert (logits.shape, ious.shape) == ((2, 3, 32, 32), (2, 3))
    logits, ious = teacher._decode(embeddings, boxes=torch.tensor([[1.0, 2, 30, 40]] * 2))
    assert (logits.shape, ious.shape) == ((2, 1, 32, 32), (2, 1))


def test_images_without_objects_teach_nothing_and_break_nothing(tmp_path: Path) -> None:
    teacher = adapted(tmp_path)
    empty = batch_of(teacher, [scene(0), scene(2, crowds=(0, 1)), replace(scene(2), masks=None)])
    assert teacher.count(empty) == 0
    losses = teacher.loss(empty, count=1)
    assert losses["loss"] == 0
    losses["loss"].backward()
    assert all(p.grad is not None and not p.grad.any() for p in nonempty(trainable_parameters(teacher).values()))

    alone, beside = batch_of(teacher, [scene(3)]), batch_of(teacher, [scene(3), scene(0)])
    torch.testing.assert_close(teacher.loss(alone, count=3)["loss"], teacher.loss(beside, count=3)["loss"])


def test_gradients_do_not_depend_on_how_a_batch_is_cut(tmp_path: Path) -> None:
    teacher = adapted(tmp_path)
    samples = [scene(3, seed=1), scene(5, size=(100, 37), seed=2)]
    parameters = trainable_parameters(teacher)
    examples = [teacher.example(s, np.random.default_rng((0, i))) for i, s in enumerate(samples)]

    teacher.loss(teacher.collate(examples), count=8)["loss"].backward()
    whole = {name: p.grad.clone() for name, p in parameters.items()}
    teacher.model.zero_grad()
    for example in examples:
        teacher.loss(teacher.collate([example]), count=8)["loss"].backward()
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.grad, whole[name], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("preset", list(LoraPreset))
def test_gradient_reaches_every_adapted_layer_and_no_other(tmp_path: Path, preset: LoraPreset) -> None:
    teacher = adapted(tmp_path, preset)
    teacher.loss(batch_of(teacher, [scene(5)]), count=5)["loss"].backward()
    trained = {name for name, p in teacher.model.named_parameters() if p.grad is not None and p.grad.any()}
    points_only = {name for name in trainable_parameters(teacher) if re.search(r"hypernetworks_mlps\.[123]", name)}
    assert trained | points_only == set(trainable_parameters(teacher)), (
        "of three masks for a point only the best learns"
    )
    assert any("mask_decoder.transformer" in name for name in trained)
    assert any("mask_decoder.upscale_conv2.modules_to_save" in name for name in trained)
    assert any("mask_decoder.iou_prediction_head" in name for name in trained)
    assert any("vision_encoder" in name for name in trained) is (preset is not LoraPreset.DECODER)
    assert not any("prompt_encoder" in name or "shared_image_embedding" in name for name in trained)


def adapter_megabytes(preset: LoraPreset, rank: int, part: str = "") -> float:
    with torch.device("meta"):
        teacher = Sam(SamModel(SamConfig()).requires_grad_(False), classes=("a",), settings=sam_settings())
        attach(teacher, LoraSettings(preset=preset, rank=rank, alpha=16, dropout=0))
    return sum(p.numel() * 4 for name, p in trainable_parameters(teacher).items() if part in name) / 1e6


def test_adapters_of_vit_b_have_the_documented_sizes() -> None:
    assert adapter_megabytes(LoraPreset.ENCODER_DECODER, 8, "qkv") == pytest.approx(1.18, abs=0.005)
    assert adapter_megabytes(LoraPreset.DECODER, 16) == pytest.approx(1.49, abs=0.01)
    assert adapter_megabytes(LoraPreset.ENCODER_DECODER, 16) == pytest.approx(4.23, abs=0.01)
    assert adapter_megabytes(LoraPreset.ALL, 16) == pytest.approx(11.9, abs=0.02), "3.2 % of the model"
    assert adapter_megabytes(LoraPreset.ALL, 16, "modules_to_save") == pytest.approx(0.47, abs=0.01)
    decoder, both, everything = (adapter_megabytes(preset, 8) for preset in LoraPreset)
    assert decoder < both < everything


@pytest.mark.parametrize("preset", list(LoraPreset))
def test_merging_the_adapter_changes_nothing_that_is_seen(tmp_path: Path, preset: LoraPreset) -> None:
    teacher, base = adapted(tmp_path, preset), random_sam(tmp_path)
    plain = Sam(merged(teacher), classes=teacher.classes, settings=teacher.settings)
    pixels, boxes = torch.from_numpy(base.transform.image(scene().image))[None], torch.tensor([[5.0, 7, 40, 50]])
    with torch.no_grad():
        applied, added, before = (
            t._decode(t._embed({"pixel_values": pixels}), boxes=boxes)[0] for t in (teacher, plain, base)
        )
    torch.testing.assert_close(added, applied, atol=1e-4, rtol=1e-3)
    assert (applied - before).abs().max() > 1e-2, "an adapter that does nothing merges exactly"


def test_bfloat16_changes_the_loss_little_and_not_its_type(tmp_path: Path) -> None:
    teacher = adapted(tmp_path)
    batch = batch_of(teacher, [scene(5)])
    exact = teacher.loss(batch, count=5)["loss"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = teacher.loss(batch, count=5)["loss"]
        seen = teacher.predict([scene(5)])[0]
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=0.05)
    assert seen.scores.dtype == np.float32


def test_a_few_steps_lower_the_loss(tmp_path: Path) -> None:
    teacher = adapted(tmp_path)
    batch = batch_of(teacher, [scene(5)])
    optimizer = torch.optim.AdamW(trainable_parameters(teacher).values(), lr=1e-2)
    history = []
    for _ in range(15):
        loss = teacher.loss(batch, count=5)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append(loss.item())
    # A random base has no shapes to offer: all that is learnt so soon is that most pixels are background.
    assert history[-1] < 0.95 * history[0]


def test_asked_for_other_classes_the_same_model_answers_alike(teacher: Sam) -> None:
    other = teacher.asking(("cat", "cup"))
    assert (other.classes, other.model) == (("cat", "cup"), teacher.model)
    (seen,), (expected,) = other.predict([scene()]), teacher.predict([scene()])
    assert seen.masks == expected.masks

"""SAM 2 predicts as transformers' own inference does, is adapted where it should be, and takes published folders."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from tiny_sam import scene
from tiny_sam2 import DECODER, IMAGE_SIZE, PROMPTS, VISION, disturbed, original_sam2, random_sam2, save_sam2
from tiny_sam2 import sam2_settings as settings
from transformers import Sam2Model, Sam2Processor, Sam2VideoConfig, Sam2VideoModel

from engine.config import LoraSettings
from engine.errors import BaseModelError
from engine.models.feature_cache import FeatureCache
from engine.models.lora import attach, merged, trainable_parameters
from engine.spec import LoraPreset, TeacherName
from engine.teachers.sam.loss import mask_iou, sam_losses
from engine.teachers.sam2.image_encoder import encode, unpacked
from engine.teachers.sam2.model import Sam2, _stability

HUGE = VISION | {"backbone_config": VISION["backbone_config"] | {"blocks_per_stage": [1, 1, 99999, 1]}}
SIZES = [(48, 60), (60, 40), (64, 64)]
"""Height and width, not above those of the model's input: the library scales larger ones by another rounding."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sam2(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def teacher(folder: Path) -> Sam2:
    return Sam2.load(folder, classes=("a", "b"), prompts={}, settings=settings())


def adapted(folder: Path, preset: LoraPreset = LoraPreset.ALL) -> Sam2:
    """A teacher with an adapter that is not zero."""
    teacher = random_sam2(folder)
    attach(teacher, LoraSettings(preset=preset, rank=2, alpha=4, dropout=0))
    disturbed(teacher.model)
    return teacher


def batch_of(teacher: Sam2, seed: int = 0):
    rng = np.random.default_rng(seed)
    return teacher.collate([teacher.example(scene(3, seed=seed), rng), teacher.example(scene(2, seed=9), rng)])


def library(folder: Path, image: np.ndarray, **prompts: object) -> tuple[Sam2Processor, dict, object]:
    """Processor, its output, and that of the model, as transformers documents their use."""
    processor = Sam2Processor.from_pretrained(folder)
    inputs = processor(images=Image.fromarray(image), return_tensors="pt", **prompts)
    several = "input_points" in prompts
    with torch.no_grad():
        return processor, inputs, Sam2Model.from_pretrained(folder).eval()(**inputs, multimask_output=several)


@pytest.mark.parametrize("size", SIZES)
def test_masks_and_scores_are_those_of_the_library(teacher: Sam2, folder: Path, size: tuple[int, int]) -> None:
    sample = scene(4, size=size)
    processor, inputs, outputs = library(folder, sample.image, input_boxes=[sample.boxes_xyxy.tolist()])
    masks = processor.post_process_masks(outputs.pred_masks, inputs["original_sizes"])[0][:, 0].numpy()
    (seen,) = teacher.predict([sample])
    assert set(seen.prompt_indices.tolist()) == set(np.flatnonzero(masks.any(axis=(1, 2))).tolist()) != set()
    for found, score, prompt in zip(seen.masks, seen.scores, seen.prompt_indices, strict=True):
        assert (coco_mask.decode(found).astype(bool) ^ masks[prompt]).mean() < 1e-3
        assert score == pytest.approx(float(outputs.iou_scores[0, prompt, 0]), abs=1e-5)


def test_logits_of_boxes_and_points_are_those_of_the_library(teacher: Sam2, folder: Path) -> None:
    sample = scene(4, size=(60, 64))
    geometry = teacher.transform.plan(60, 64)
    points = sample.boxes_xyxy[:, :2] + 3
    embedding = teacher._embed({"pixel_values": torch.from_numpy(teacher.transform.image(sample.image))[None]})
    embeddings = embedding.expand(4, -1, -1, -1)
    with torch.no_grad():
        boxed = teacher._mask_of_box(embeddings, torch.from_numpy(geometry.to_model(sample.boxes_xyxy)))
        pointed = teacher._decode(embeddings, points=torch.from_numpy(geometry.to_model(points)), several=True)
    for ours, prompts in (
        (boxed, {"input_boxes": [sample.boxes_xyxy.tolist()]}),
        (pointed, {"input_points": [points[:, None].tolist()], "input_labels": [[[1]] * 4]}),
    ):
        _, _, outputs = library(folder, sample.image, **prompts)
        torch.testing.assert_close(ours[0], outputs.pred_masks[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours[1], outputs.iou_scores[0], atol=1e-5, rtol=1e-5)


def test_large_images_are_scaled_as_by_the_library_within_one_grey_level(teacher: Sam2, folder: Path) -> None:
    image = scene(3, size=(200, 300)).image
    _, inputs, _ = library(folder, image, input_boxes=[[[0, 0, 9, 9]]])
    theirs = inputs["pixel_values"][0].numpy()
    assert np.abs(teacher.transform.image(image) - theirs).max() < 1.01 / 255 / 0.224


def test_an_unstable_mask_gives_way_to_the_best_of_three(teacher: Sam2) -> None:
    rough = torch.tensor([[[-1.0, -0.01], [0.01, 1.0]], [[-1.0, -1.0], [1.0, 1.0]], [[-1.0, -1.0], [-1.0, -1.0]]])
    assert _stability(rough, 0.05).tolist() == pytest.approx([1 / 3, 1.0, 1.0])
    config = teacher.model.config.mask_decoder_config
    embeddings = teacher._embed({"pixel_values": torch.rand(1, 3, IMAGE_SIZE, IMAGE_SIZE)}).expand(2, -1, -1, -1)
    boxes = torch.tensor([[3.0, 4, 30, 40], [10, 10, 60, 50]])
    with torch.no_grad():
        one = teacher._decode(embeddings, boxes=boxes)[0]
        three, quality = teacher._decode(embeddings, boxes=boxes, several=True)
        for threshold, expected in ((-1.0, one[:, 0]), (2.0, three[torch.arange(2), quality.argmax(1)])):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(config, "dynamic_multimask_stability_thresh", threshold)
                torch.testing.assert_close(teacher._mask_of_box(embeddings, boxes)[0][:, 0], expected)


def test_three_maps_survive_packing(teacher: Sam2) -> None:
    pixels = torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    with torch.no_grad():
        coarse, finest, finer = unpacked(encode(teacher._sam, pixels))
        expected = teacher._sam.get_image_embeddings(pixels)
    for ours, theirs in zip((finest, finer, coarse), expected, strict=True):
        # The library's own view mixes the images of a batch in its first map only if there is more than one.
        assert ours.shape == theirs.shape
    single = teacher._sam.get_image_embeddings(pixels[:1])
    for ours, theirs in zip((finest, finer, coarse), single, strict=True):
        torch.testing.assert_close(ours[:1], theirs)


def test_the_object_score_is_neither_used_nor_trained(tmp_path: Path) -> None:
    teacher = adapted(tmp_path)
    before = teacher.predict([scene(3)])
    with torch.no_grad():
        for parameter in teacher._sam.mask_decoder.pred_obj_score_head.parameters():
            parameter.fill_(-100.0)  # "there is no object"
    after = teacher.predict([scene(3)])
    assert before[0].masks == after[0].masks
    assert not any("obj_score" in name for name in trainable_parameters(teacher))


@pytest.mark.parametrize("preset", list(LoraPreset))
def test_gradient_reaches_every_adapted_layer_and_no_other(tmp_path: Path, preset: LoraPreset) -> None:
    teacher = adapted(tmp_path, preset)
    teacher.loss(batch_of(teacher), count=5)["loss"].backward()
    trained = {name for name, p in teacher.model.named_parameters() if p.grad is not None and p.grad.any()}
    points_only = {name for name in trainable_parameters(teacher) if re.search(r"hypernetworks_mlps\.[123]", name)}
    assert trained | points_only == set(trainable_parameters(teacher)), "of three masks only the best learns"
    assert any("mask_decoder.upscale_conv2.modules_to_save" in name for name in trained)
    assert any("mask_decoder.conv_s0" in name for name in trained) is (preset is not LoraPreset.DECODER)
    assert any("vision_encoder" in name for name in trained) is (preset is not LoraPreset.DECODER)
    assert not any("prompt_encoder" in name or "shared_image_embedding" in name for name in trained)


def test_every_block_of_the_image_encoder_is_adapted(tmp_path: Path) -> None:
    names = " ".join(trainable_parameters(adapted(tmp_path)))
    for block in range(5):
        for layer in ("attn.qkv", "attn.proj", "mlp.proj_in", "mlp.proj_out"):
            assert f"backbone.blocks.{block}.{layer}." in names
    teacher = random_sam2(tmp_path)
    attach(teacher, LoraSettings(preset=LoraPreset.ALL, rank=2, alpha=4, dropout=0, skip_layers=3))
    later = " ".join(trainable_parameters(teacher))
    assert "backbone.blocks.2." not in later
    assert "backbone.blocks.3.attn.qkv." in later


def test_a_merged_adapter_saved_for_the_library_predicts_the_same(tmp_path: Path) -> None:
    teacher = adapted(tmp_path)
    sample = scene(3, size=(60, 64))
    merged(teacher).save_pretrained(tmp_path / "merged")
    Sam2Processor.from_pretrained(tmp_path / "sam2").save_pretrained(tmp_path / "merged")
    _, _, outputs = library(tmp_path / "merged", sample.image, input_boxes=[sample.boxes_xyxy.tolist()])
    (seen,), (base,) = teacher.predict([sample]), random_sam2(tmp_path).predict([sample])
    for score, prompt in zip(seen.scores, seen.prompt_indices, strict=True):
        assert score == pytest.approx(float(outputs.iou_scores[0, prompt, 0]), abs=1e-4)
    assert not np.allclose(np.sort(seen.scores), np.sort(base.scores), atol=1e-3)


def test_the_predicted_iou_has_an_absolute_error_as_published() -> None:
    torch.manual_seed(0)
    logits, ious, targets = torch.randn(4, 3, 8, 8), torch.rand(4, 3), (torch.rand(4, 8, 8) > 0.5).float()
    losses = sam_losses(logits, ious, targets, settings())
    expected = (ious - mask_iou(logits, targets[:, None])).abs().mean(dim=1).sum()
    torch.testing.assert_close(losses["iou"], expected)


def test_a_few_steps_lower_the_loss(tmp_path: Path) -> None:
    teacher = random_sam2(tmp_path)
    attach(teacher, LoraSettings(preset=LoraPreset.ALL, rank=4, alpha=8, dropout=0))
    batch = batch_of(teacher)
    optimizer = torch.optim.AdamW(trainable_parameters(teacher).values(), lr=1e-2)
    history = []
    for _ in range(15):
        loss = teacher.loss(batch, count=5)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append(loss.item())
    assert history[-1] < 0.95 * history[0]


def test_a_frozen_image_encoder_is_cached_without_changing_predictions(tmp_path: Path) -> None:
    teacher = adapted(tmp_path, LoraPreset.DECODER)
    (plain,) = teacher.predict([scene(3)])
    identity = teacher.frozen()
    assert identity is not None
    teacher.features = FeatureCache(tmp_path / "cache", identity=identity, limit=1 << 30)
    (first,), (again,) = teacher.predict([scene(3)]), teacher.predict([scene(3)])
    assert (teacher.features.computed, teacher.features.found) == (1, 1)
    np.testing.assert_array_equal(first.scores, again.scores)
    np.testing.assert_allclose(first.scores, plain.scores, atol=5e-3)  # features are rounded to 16 bit
    assert adapted(tmp_path).frozen() is None


def test_the_folder_of_a_video_model_is_taken_as_published(tmp_path: Path) -> None:
    widths = ("memory_attention_hidden_size", "memory_encoder_hidden_size", "mask_downsampler_embed_dim")
    small = dict.fromkeys((*widths, "memory_fuser_embed_dim", "memory_fuser_intermediate_dim"), 32)
    config = Sam2VideoConfig(
        vision_config=VISION,
        prompt_encoder_config=PROMPTS,
        mask_decoder_config=DECODER,
        image_size=IMAGE_SIZE,
        memory_encoder_output_channels=16,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=32,
        **small,
    )
    video = disturbed(Sam2VideoModel(config))
    video.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "sam2_video"
    teacher = Sam2.load(tmp_path, classes=("a",), prompts={}, settings=settings())
    theirs = video.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in teacher.model.state_dict().items())


def spoil(folder: Path, name: str, change: dict) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "config.json",
            {"model_type": "sam"},
            "'sam' model, not one of sam2, sam2_video: it is a base of the teacher Sam$",
        ),
        (
            "config.json",
            {"model_type": "sam3_tracker"},
            "'sam3_tracker' model, .*: SAM 3 is not supported: .* SAM License",
        ),
        ("config.json", {"model_type": "edgetam"}, "'edgetam' model, .* Sam takes sam, Sam2 takes sam2 or sam2_video$"),
        ("config.json", {"vision_config": HUGE}, "blocks_per_stage is 99999, and no base has more than 64"),
        ("config.json", {"prompt_encoder_config": PROMPTS | {"image_size": 128}}, "image_size of 128 and feature maps"),
        ("preprocessor_config.json", {"size": {"height": 64, "width": 96}}, "image_size of 64: they do not belong"),
        ("preprocessor_config.json", {"image_mean": [0.5, 0.5, 0.5]}, "image_mean is .* not supported"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(tmp_path: Path, name: str, change: dict, message: str) -> None:
    folder = save_sam2(tmp_path)
    spoil(folder, name, change)
    with pytest.raises(BaseModelError, match=message):
        Sam2.load(folder, classes=("a",), prompts={}, settings=settings())


def test_it_is_tuned_on_request_only() -> None:
    assert TeacherName("Sam2").traits.on_request
    assert original_sam2().config.model_type == "sam2"

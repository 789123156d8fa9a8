"""Teachers as ONNX give the detections of torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from artifacts import artifact_of, assert_same, predictions, products_in, scene
from tiny import BASE, KINDS, grounding_dino_settings, random_teacher
from tiny_sam import sam_settings
from tiny_sam2 import random_sam2
from torch import nn

from engine.config import LoraSettings
from engine.dataset.images.preprocessing import from_cxcywh_normalized
from engine.dataset.types import Sample
from engine.errors import ConfigError
from engine.models.lora import attach, trainable_parameters
from engine.optimization.export import to_onnx
from engine.spec import LoraPreset
from engine.teachers.grounding_dino.model import GroundingDino
from engine.teachers.sam.model import Sam

pytest.importorskip("onnxruntime")

TINY_SAM = BASE.parent / "sam"
BOXES = [(10.0, 12.0, 60.0, 70.0), (50.0, 5.0, 120.0, 90.0)]


def adapted(teacher: Any) -> Any:
    """The teacher with a random adapter."""
    torch.manual_seed(0)
    attach(teacher, LoraSettings(preset=LoraPreset.ALL, rank=4, alpha=8, dropout=0))
    for name, parameter in trainable_parameters(teacher).items():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    return teacher


def shipped() -> GroundingDino:
    settings = grounding_dino_settings(max_detections=30, nms=0.7)
    return GroundingDino.load(BASE, classes=["circle", "red square", "star"], prompts={}, settings=settings)


def test_a_tuned_grounding_dino_is_one_graph_with_the_same_boxes(tmp_path) -> None:
    teacher = adapted(shipped())
    images = [scene(seed) for seed in range(3)]
    artifact = artifact_of(teacher, tmp_path, [(96, 128)])
    assert set(artifact.sessions) == {"detector"}
    for found, expected in zip(predictions(artifact, images), predictions(teacher, images), strict=True):
        assert_same(found, expected, size=(96, 128))


def test_the_classes_are_constants_of_the_graph(tmp_path) -> None:
    import onnx

    artifact_of(shipped(), tmp_path, [(96, 128)])
    graph = onnx.load(tmp_path / "detector.onnx").graph
    assert {one.name for one in graph.input} == {"pixel_values", "pixel_mask"}
    (whole,) = shipped().graphs(None, [(96, 128)])
    reference = to_onnx(whole)
    for scopes in whole.quantized:
        assert products_in(reference, scopes)
        assert not [name for name in products_in(reference, scopes) if "decoder" in name]
    words = shipped().model.config.text_config.vocab_size
    assert all(words not in tensor.dims for tensor in graph.initializer), "the text encoder is still there"


def test_images_of_other_shapes_are_padded_as_in_a_batch_of_torch(tmp_path) -> None:
    teacher = random_teacher(max_detections=20)
    artifact = artifact_of(teacher, tmp_path, [(64, 96), (96, 64)])
    image = scene(0, (64, 96))
    batch = teacher.collate(
        [teacher.example(Sample.of(one), np.random.default_rng(0)) for one in (image, scene(1, (96, 64)))]
    )
    seen = batch | {"images": torch.tensor([0])}
    with torch.no_grad():  # with gradients, frozen layers see each image before padding
        scores, labels, boxes = (one[0].numpy() for one in teacher._candidates(seen))
    (found,) = predictions(artifact, [image])
    np.testing.assert_allclose(found.scores, scores, atol=1e-4)
    np.testing.assert_array_equal(found.class_indices, labels)
    np.testing.assert_allclose(found.boxes_xyxy, from_cxcywh_normalized(boxes, 64, 96), atol=1e-2)


def test_classes_that_need_several_captions_are_in_one_graph(tmp_path) -> None:
    teacher = random_teacher(["red circle", "square", "star", "ring", "bar"], limit=9, max_detections=20)
    assert len(teacher.book.chunks()) > 1
    images = [scene(0, (64, 64))]
    artifact = artifact_of(teacher, tmp_path, [(64, 64)])
    assert_same(predictions(artifact, images)[0], predictions(teacher, images)[0], size=(64, 64))


def test_mm_grounding_dino_gives_the_same_boxes(tmp_path) -> None:
    teacher = random_teacher(kind=list(KINDS)[1])
    images = [scene(0, (64, 96))]
    artifact = artifact_of(teacher, tmp_path, [(64, 96)])
    assert_same(predictions(artifact, images)[0], predictions(teacher, images)[0], size=(64, 96))


def shipped_sam(folder: Path) -> Sam:
    return Sam.load(TINY_SAM, classes=["a"], prompts={}, settings=sam_settings())


@pytest.mark.parametrize("load", [shipped_sam, random_sam2], ids=["Sam", "Sam2"])
def test_sam_is_encoder_and_decoder_with_the_same_masks(tmp_path, load) -> None:
    teacher = adapted(load(tmp_path))
    artifact = artifact_of(teacher, tmp_path, [(96, 128)])
    assert set(artifact.sessions) == {"encoder", "decoder"}
    sample = Sample.of(scene(3), BOXES)
    (found,), (expected,) = artifact.predict([sample]), teacher.predict([sample])
    assert len(expected) > 0
    np.testing.assert_array_equal(found.prompt_indices, expected.prompt_indices)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    for ours, theirs in zip(found.masks or [], expected.masks or [], strict=True):
        assert ours["counts"] == theirs["counts"]
    encoder, decoder = teacher.graphs(None, [])
    reference = to_onnx(encoder)
    many, few = (products_in(reference, scopes) for scopes in encoder.quantized)
    assert len(many) > len(few) > 0
    assert decoder.quantized == ((), ())


def test_an_unstable_mask_of_sam_2_is_the_best_of_three_in_the_graph_too(tmp_path) -> None:
    teacher = random_sam2(tmp_path)
    config = teacher.model.config.mask_decoder_config
    boxes = torch.tensor([BOXES[0], BOXES[1]]) / 2
    embeddings = teacher._encode(torch.randn(1, 3, 64, 64)).expand(2, -1, -1, -1)
    results = {}
    for threshold in (0.0, 1.1):  # every mask is stable, none is
        config.dynamic_multimask_stability_thresh = threshold
        results[threshold] = teacher._mask_of_box(embeddings, boxes)
        traced = teacher.traced_mask_of_box(embeddings, boxes)
        for ours, theirs in zip(traced, results[threshold], strict=True):
            torch.testing.assert_close(ours, theirs)
    assert not torch.equal(results[0.0][0], results[1.1][0])


def test_sam_has_no_other_input_size(tmp_path) -> None:
    with pytest.raises(ConfigError, match="leave the image size out"):
        shipped_sam(tmp_path).graphs((64, 96), [])

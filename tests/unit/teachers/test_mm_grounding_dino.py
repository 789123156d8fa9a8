"""MM-Grounding-DINO and LLMDet: the library's model of another kind, with heads of each decoder layer its own."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import grounding_dino_settings, noise, random_grounding_dino, save_grounding_dino
from torch import nn
from transformers import AutoTokenizer, GroundingDinoImageProcessorPil, MMGroundingDinoForObjectDetection

from engine.config import LoraSettings
from engine.config.resolve import teacher_defaults
from engine.errors import BaseModelError
from engine.models.lora import attach, merged, trainable_parameters
from engine.models.registry import REGISTRY
from engine.spec import LoraPreset, TeacherName
from engine.teachers.grounding_dino.model import GroundingDino
from engine.teachers.mm_grounding_dino.model import MMGroundingDino

AS_PUBLISHED = {"decoder_bbox_embed_share": False, "decoder_cls_embed_share": False}
CLASSES = ("red circle", "square")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = random_grounding_dino("mm-grounding-dino", **AS_PUBLISHED)
    for number, head in enumerate(model.class_embed):
        nn.init.constant_(head.bias, -0.5 - number)
    return save_grounding_dino(tmp_path, model, shortest_edge=64, longest_edge=96)


def load(folder: Path) -> MMGroundingDino:
    return MMGroundingDino.load(folder, classes=CLASSES, prompts={}, settings=grounding_dino_settings())


def test_it_is_known_by_its_name_and_tuned_on_request_only() -> None:
    assert REGISTRY[TeacherName.MM_GROUNDING_DINO] is MMGroundingDino
    assert TeacherName.MM_GROUNDING_DINO.traits.on_request
    assert teacher_defaults(TeacherName.MM_GROUNDING_DINO)["base_model"].startswith("openmmlab-community/mm_grounding")


def test_it_predicts_what_the_library_alone_predicts(folder: Path) -> None:
    image = noise(size=(48, 80), seed=3).image
    library = MMGroundingDinoForObjectDetection.from_pretrained(folder).eval()
    processor = GroundingDinoImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96})
    caption = AutoTokenizer.from_pretrained(folder)("red circle . square .", return_tensors="pt")
    with torch.no_grad():
        outputs = library(**processor(images=image, return_tensors="pt"), **caption)
    tokens, boxes = outputs.logits[0].sigmoid(), outputs.pred_boxes[0]
    scores = torch.stack([tokens[:, 1:3].mean(1), tokens[:, 4]], dim=1)  # [CLS] red circle . square . [SEP]
    expected, best = scores.flatten().sort(descending=True)
    center, half = boxes[best // 2, :2], boxes[best // 2, 2:] / 2
    corners = (torch.cat([center - half, center + half], dim=1) * torch.tensor([80, 48, 80, 48])).clamp(min=0)
    (found,) = load(folder).predict([noise(size=(48, 80), seed=3)])
    count = len(found.scores)
    assert count == 20
    np.testing.assert_allclose(found.scores, expected[:count], atol=1e-5)
    np.testing.assert_array_equal(found.class_indices, best[:count] % 2)
    corners = corners.minimum(torch.tensor([80.0, 48.0, 80.0, 48.0]))
    np.testing.assert_allclose(found.boxes_xyxy, corners[:count], atol=80e-5)
    assert found.scores.std() > 1e-3


def test_a_merged_adapter_is_the_applied_adapter_with_heads_of_each_layer(folder: Path) -> None:
    teacher = load(folder)
    inputs = {"pixel_values": torch.rand(1, 3, 64, 64), "input_ids": torch.tensor([teacher.book.chunks()[0].input_ids])}
    attach(teacher, LoraSettings(preset=LoraPreset.ALL, rank=4, alpha=8, dropout=0))
    for name, parameter in trainable_parameters(teacher).items():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():
        applied, alone = teacher.model(**inputs), merged(teacher)(**inputs)
    torch.testing.assert_close(alone.logits, applied.logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(alone.pred_boxes, applied.pred_boxes, rtol=1e-4, atol=1e-4)
    assert len({float(head.bias) for head in teacher._detector.class_embed}) == 2


def test_the_tiny_base_starts_as_a_copy_that_predicts_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "examples" / "tiny_teachers")
    converted = importlib.import_module("train_mm_grounding_dino").converted
    source = random_grounding_dino()
    copy = converted(source)
    inputs = {"pixel_values": torch.rand(1, 3, 64, 64), "input_ids": torch.tensor([[101, 1000, 1012, 1001, 1012, 102]])}
    with torch.no_grad():
        before, after = source(**inputs), copy(**inputs)
    torch.testing.assert_close(after.logits, before.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after.pred_boxes, before.pred_boxes, rtol=1e-4, atol=1e-4)
    assert before.logits[..., 1].std() > 0.1
    assert copy.bbox_embed[0].layers[0].weight is not copy.bbox_embed[1].layers[0].weight


def test_a_base_of_the_other_kind_is_refused_with_the_teacher_that_it_is_for(folder: Path, tmp_path: Path) -> None:
    other = save_grounding_dino(tmp_path / "other", random_grounding_dino())
    with pytest.raises(BaseModelError, match=r"'grounding-dino' model, .*: it is a base of the teacher GroundingDino$"):
        load(other)
    with pytest.raises(BaseModelError, match=r"it is a base of the teacher MMGroundingDino$"):
        GroundingDino.load(folder, classes=CLASSES, prompts={}, settings=grounding_dino_settings())


def test_a_base_without_the_bias_of_its_heads_is_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    gone = [name for name in weights if name.endswith("class_embed.1.bias")]
    save_file(
        {n: w for n, w in weights.items() if n not in gone}, folder / "model.safetensors", metadata={"format": "pt"}
    )
    with pytest.raises(BaseModelError, match="lacks"):
        load(folder)

"""Grounding DINO so small and random that a forward pass takes milliseconds, and images to show it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    AutoTokenizer,
    BertConfig,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    SwinConfig,
)

from engine.config import LoraSettings
from engine.dataset.images.preprocessing import ShortestEdgeTransform
from engine.dataset.types import Sample
from engine.spec import LoraPreset
from engine.teachers.grounding_dino.model import GroundingDino
from engine.teachers.grounding_dino.settings import GroundingDinoSettings
from engine.teachers.mm_grounding_dino.model import MMGroundingDino

BASE = Path(__file__).resolve().parents[1] / "examples" / "tiny_teachers" / "grounding_dino"
"""The tiny base that is shipped."""

KINDS = {
    "grounding-dino": (GroundingDinoConfig, GroundingDinoForObjectDetection, GroundingDino),
    "mm-grounding-dino": (MMGroundingDinoConfig, MMGroundingDinoForObjectDetection, MMGroundingDino),
}
"""Configuration, model and teacher by the model type."""


def grounding_dino_settings(**changes: Any) -> GroundingDinoSettings:
    values = {
        "base_model": "tiny",
        "revision": None,
        "lora": LoraSettings(preset=LoraPreset.ALL, rank=4, alpha=8, dropout=0),
        "epochs": 1,
        "batch_size": 2,
        "learning_rate": 1e-3,
        "weight_decay": 0,
        "warmup_fraction": 0,
        "schedule": "constant",
        "clip_norm": 1,
        "evaluations": 1,
        "classification_weight": 2,
        "l1_weight": 5,
        "giou_weight": 2,
        "max_detections": 20,
        "nms": 1,
    }
    return GroundingDinoSettings.model_validate(values | changes)


def random_grounding_dino(kind: str = "grounding-dino", **changes: Any) -> Any:
    """A model whose every weight is random: heads that start at zero would hide what a test looks for."""
    config_class, model_class, _ = KINDS[kind]
    config = config_class(
        **{
            "backbone_config": SwinConfig(
                embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, out_indices=[2, 3, 4]
            ),
            "text_config": BertConfig(
                vocab_size=len(AutoTokenizer.from_pretrained(BASE)),
                hidden_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
            ),
            "d_model": 64,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "num_queries": 12,
        }
        | changes
    )
    torch.manual_seed(0)
    model = model_class(config).eval()
    decoders = {id(head.layers[-1].weight): head for head in model.bbox_embed}  # one tensor, if they are shared
    for head in (*decoders.values(), model.model.encoder_output_bbox_embed):
        nn.init.normal_(head.layers[-1].weight, std=0.3)
    for name, parameter in model.named_parameters():
        if name.endswith(("vision_param", "text_param")):
            nn.init.constant_(parameter, 0.5)
        if "class_embed" in name:  # the bias of MM-Grounding-DINO, which begins with hardly any detection
            nn.init.constant_(parameter, -0.2)
    return model


def save_grounding_dino(folder: Path, model: Any, **size: int) -> Path:
    """A transformers model folder."""
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(BASE).save_pretrained(folder)
    if size:
        (folder / "preprocessor_config.json").write_text(f'{{"size": {size}}}'.replace("'", '"'))
    return folder


def random_teacher(
    classes: Sequence[str] = ("red circle", "square"),
    *,
    kind: str = "grounding-dino",
    limit: int = 256,
    layers: int = 2,
    **changes: Any,
) -> GroundingDino:
    """A teacher with a random base that sees images with a shorter edge of 64 pixels.

    Args:
        classes: Class names.
        kind: A key of :data:`KINDS`.
        limit: Tokens that a caption may have.
        layers: Of the decoder.
        changes: Of the settings.
    """
    return KINDS[kind][2](
        random_grounding_dino(kind, max_text_len=limit, decoder_layers=layers).requires_grad_(False),
        AutoTokenizer.from_pretrained(BASE),
        classes=classes,
        prompts={},
        settings=grounding_dino_settings(**changes),
        transform=ShortestEdgeTransform(shortest_edge=64, longest_edge=128),
    )


def noise(
    boxes_xyxy: Sequence[Sequence[float]] = (),
    class_indices: Sequence[int] = (),
    *,
    size: tuple[int, int] = (64, 64),
    seed: int = 0,
) -> Sample:
    """An image (height, width) of noise with the given objects."""
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Sample.of(image, boxes_xyxy, class_indices)

"""SAM 2 so small and random that a forward pass takes milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_sam import sam_settings
from torch import nn
from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model

from engine.teachers.sam2.model import Sam2
from engine.teachers.sam2.settings import Sam2Settings

IMAGE_SIZE, WIDTH = 64, 32

VISION = {
    "backbone_config": {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 16,
        "image_size": [IMAGE_SIZE, IMAGE_SIZE],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [16, 24, 32, 48],
        "num_attention_heads_per_stage": [1, 2, 2, 4],
        "window_size_per_stage": [8, 4, 6, 3],  # the last two do not divide the 4 and 2 cells of a side
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [4, 4],
    },
    "backbone_channel_list": [48, 32, 24, 16],
    "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    "fpn_hidden_size": WIDTH,
}
PROMPTS = {"hidden_size": WIDTH, "image_size": IMAGE_SIZE}
DECODER = {"hidden_size": WIDTH, "mlp_dim": 40, "num_attention_heads": 4, "iou_head_hidden_dim": 20}


def sam2_settings(**changes: Any) -> Sam2Settings:
    return Sam2Settings.model_validate(sam_settings(**changes).model_dump())


def disturbed(model: nn.Module) -> nn.Module:
    """The model with random values in place of zeros, which would hide what a test looks for."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.2)
    return model.eval()


def original_sam2() -> Sam2Model:
    torch.manual_seed(0)
    config = Sam2Config(vision_config=VISION, prompt_encoder_config=PROMPTS, mask_decoder_config=DECODER)
    model = Sam2Model(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)  # the library's 0.02 gives empty masks
    return disturbed(model)


def save_sam2(folder: Path) -> Path:
    """A base model's folder."""
    original_sam2().save_pretrained(folder / "sam2")
    Sam2ImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}).save_pretrained(folder / "sam2")
    return folder / "sam2"


def random_sam2(folder: Path, **changes: Any) -> Sam2:
    """A teacher with a random base; ``changes`` are those of the settings."""
    return Sam2.load(save_sam2(folder), classes=("a", "b"), prompts={}, settings=sam2_settings(**changes))

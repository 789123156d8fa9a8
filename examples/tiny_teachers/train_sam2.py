"""Train the tiny SAM 2 from scratch on drawn scenes, in less than an hour on one CPU core.

    python examples/tiny_teachers/train_sam2.py                          # writes examples/tiny_teachers/sam2/
    python examples/tiny_teachers/train_sam2.py --steps 50 --output out  # a quick test

Scenes, objective and schedule are those of ``train_sam.py``. The architecture is that of SAM 2.1 for images; only the
sizes are small: 256 pixels, so that masks have a cell for each 4x4 pixels.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from train_sam import (
    IMAGE_SIZE,
    SETTINGS,
    WIDTH,
    compare_positions,
    run,
)
from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model

from engine.teachers.sam2.model import Sam2
from engine.teachers.sam2.settings import Sam2Settings

WIDTHS = [24, 48, 96, 192]
"""Channels of the stages of the image encoder."""

CONFIG = Sam2Config(
    vision_config={
        "backbone_config": {
            "model_type": "sam2_hiera_det_model",
            "hidden_size": WIDTHS[0],
            "image_size": [IMAGE_SIZE, IMAGE_SIZE],
            "blocks_per_stage": [1, 1, 3, 1],
            "embed_dim_per_stage": WIDTHS,
            "num_attention_heads_per_stage": [1, 2, 4, 8],
            "window_size_per_stage": [8, 4, 8, 4],
            "global_attention_blocks": [3, 4],
            "window_positional_embedding_background_size": [8, 8],
            "mlp_ratio": 3.0,
        },
        "backbone_channel_list": WIDTHS[::-1],
        "backbone_feature_sizes": [[IMAGE_SIZE // stride] * 2 for stride in (4, 8, 16)],
        "fpn_hidden_size": WIDTH,
    },
    prompt_encoder_config={"hidden_size": WIDTH, "image_size": IMAGE_SIZE},
    mask_decoder_config={
        "hidden_size": WIDTH,
        "mlp_dim": 2 * WIDTH,
        "num_attention_heads": 4,
        "iou_head_hidden_dim": WIDTH,
    },
)


def build_model() -> Sam2Model:
    """Build a new model, with weights from torch's global generator."""
    model = Sam2Model(CONFIG)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(module.weight)
    with torch.no_grad():
        compare_positions(model)
        places = model.shared_image_embedding.positional_embedding
        model.prompt_encoder.shared_embedding.positional_embedding.copy_(places)
        backbone = model.vision_encoder.backbone
        for embedding in (backbone.pos_embed, backbone.pos_embed_window):
            nn.init.trunc_normal_(embedding, std=0.02)
        for conv in model.vision_encoder.neck.convs:
            conv.weight *= 0.3  # the embedding begins smaller than the positions that are added to it
    return model


def main() -> None:
    settings = Sam2Settings.model_validate(SETTINGS.model_dump())
    processor = Sam2ImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    run(Sam2, build_model, settings, processor, script=Path(__file__), steps=3000)


if __name__ == "__main__":
    main()

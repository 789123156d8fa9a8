"""Train the tiny SAM 2 from scratch on drawn scenes, in less than an hour on one CPU core.

    python examples/tiny_teachers/train_sam2.py                          # writes examples/tiny_teachers/sam2/
    python examples/tiny_teachers/train_sam2.py --steps 50 --output out  # a quick test

Scenes, objective and schedule are those of ``train_sam.py``. The architecture is that of SAM 2.1 for images; only the
sizes are small: 256 pixels, so that masks have a cell for each 4x4 pixels.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import torch
from model_card import write_card
from torch import nn
from train_sam import (
    IMAGE_SIZE,
    SCENES,
    SETTINGS,
    WIDTH,
    compare_positions,
    evaluate,
    held_out,
    train,
)
from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model

from engine.teachers.sam2.model import Sam2
from engine.teachers.sam2.settings import Sam2Settings

HERE = Path(__file__).parent
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


def save(model: Sam2Model, folder: Path) -> None:
    """Write weights in 16 bit, which loading converts to 32, and the preprocessing."""
    model.half().save_pretrained(folder)
    Sam2ImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=HERE / "sam2")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.manual_seed(args.seed)
    settings = Sam2Settings.model_validate(SETTINGS.model_dump())
    begin = time.monotonic()
    teacher = Sam2(build_model(), classes=("object",), settings=settings)
    print(f"{sum(p.numel() for p in teacher.model.parameters()):,} parameters", flush=True)
    train(teacher, steps=args.steps, seed=args.seed)
    minutes = (time.monotonic() - begin) / 60
    save(teacher.model, args.output)
    saved = Sam2.load(args.output, classes=("object",), prompts={}, settings=settings)
    figures = evaluate(saved, held_out(args.seed, SCENES))
    print(figures)
    write_card(
        args.output,
        title="Tiny SAM 2",
        script=Path(__file__),
        seed=args.seed,
        steps=args.steps,
        minutes=minutes,
        scenes=SCENES,
        prompt="true boxes",
        figures=figures,
    )


if __name__ == "__main__":
    main()

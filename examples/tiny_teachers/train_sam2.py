"""Train the tiny SAM 2 from scratch on drawn scenes, in about a quarter of an hour of CPU time.

    python examples/tiny_teachers/train_sam2.py                          # writes examples/tiny_teachers/sam2/
    python examples/tiny_teachers/train_sam2.py --steps 50 --output out  # a quick test

Scenes, objective and schedule are those of ``train_sam.py``. The architecture is that of SAM 2.1 for images; only the
sizes are small: 256 pixels, so that masks have a cell for each 4x4 pixels. Hiera begins with the positions that prompts
are encoded with, and its neck with centred maps, see :func:`build_model`: without both, 250 steps taught nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from train_sam import IMAGE_SIZE, SETTINGS, WIDTH, compare_positions, draw_sample, run
from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model

from engine.dataset.images.preprocessing import SquareTransform
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
            "window_positional_embedding_background_size": [IMAGE_SIZE // 16, IMAGE_SIZE // 16],
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
    """Build a new model, with weights from torch's global generator.

    The image encoder begins with a quarter of the positional encoding that the decoder compares with the prompts, as
    many channels as its first stage has. So the embedding of a cell contains its position.
    """
    model = Sam2Model(CONFIG)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(module.weight)
    with torch.no_grad():
        compare_positions(model)
        positions = model.shared_image_embedding.positional_embedding
        model.prompt_encoder.shared_embedding.positional_embedding.copy_(positions)
        backbone = model.vision_encoder.backbone
        backbone.pos_embed[0] = 1.5 * model.get_image_wide_positional_embeddings()[0, :: WIDTH // WIDTHS[0]]
        nn.init.trunc_normal_(backbone.pos_embed_window, std=0.02)
        center_maps(model)
    return model


def center_maps(model: Sam2Model, *, std: float = 0.2) -> None:
    """Let the neck's maps begin with mean 0 in each channel, over some scenes.

    Random projections of Hiera's stages are nearly the same at all places, which hides positions and content.

    Args:
        model: Changed in place.
        std: Standard deviation of each map, below that of the positional encoding that is added to the embedding.
    """
    transform = SquareTransform(IMAGE_SIZE)
    scenes = [draw_sample(np.random.default_rng((0, 2, i))).image for i in range(8)]
    maps: dict[nn.Module, Tensor] = {}
    neck = model.vision_encoder.neck.convs
    hooks = [conv.register_forward_hook(lambda conv, _, output: maps.update({conv: output})) for conv in neck]
    model.vision_encoder(torch.from_numpy(np.stack([transform.image(scene) for scene in scenes])))
    for hook in hooks:
        hook.remove()
    for conv in neck:
        mean = maps[conv].mean(dim=(0, 2, 3))
        scale = std / (maps[conv] - mean[:, None, None]).std()
        conv.weight *= scale
        conv.bias.copy_((conv.bias - mean) * scale)


def main() -> None:
    settings = Sam2Settings.model_validate(SETTINGS.model_dump())
    processor = Sam2ImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    # Nothing normalizes what Hiera returns: at the rate of the decoder it would outgrow the positions.
    run(Sam2, build_model, settings, processor, script=Path(__file__), steps=2000, encoder_rate=0.2)


if __name__ == "__main__":
    main()

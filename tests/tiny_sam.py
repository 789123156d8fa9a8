"""SAM so small and random that a forward pass takes milliseconds, in transformers and as segment-anything has it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling import Sam as OriginalSam
from torch import nn

from engine.config import LoraSettings
from engine.dataset.types import Sample
from engine.spec import LoraPreset
from engine.teachers.sam.checkpoint import convert_original
from engine.teachers.sam.model import Sam
from engine.teachers.sam.settings import SamSettings

IMAGE_SIZE, PATCH, WIDTH = 64, 8, 32


def sam_settings(**changes: Any) -> SamSettings:
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
        "objects_per_image": 5,
        "box_jitter": 0.05,
        "point_share": 0.5,
        "focal_weight": 20,
        "dice_weight": 1,
        "iou_weight": 1,
    }
    return SamSettings.model_validate(values | changes)


def original_sam() -> OriginalSam:
    """segment-anything's own modules; every weight is random, as zeros would hide what a test looks for.

    Windows of 3 patches do not divide the 8 of a side, as 14 do not divide the 64 of the published models.
    """
    torch.manual_seed(0)
    grid = IMAGE_SIZE // PATCH
    model = OriginalSam(
        ImageEncoderViT(
            img_size=IMAGE_SIZE,
            patch_size=PATCH,
            embed_dim=24,
            depth=3,
            num_heads=2,
            out_chans=WIDTH,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=3,
            global_attn_indexes=(1,),
        ),
        PromptEncoder(
            embed_dim=WIDTH,
            image_embedding_size=(grid, grid),
            input_image_size=(IMAGE_SIZE, IMAGE_SIZE),
            mask_in_chans=8,
        ),
        MaskDecoder(
            transformer_dim=WIDTH,
            transformer=TwoWayTransformer(depth=2, embedding_dim=WIDTH, num_heads=8, mlp_dim=40),
            iou_head_depth=4,
            iou_head_hidden_dim=20,
        ),
    )
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


def save_sam(folder: Path) -> Path:
    """The same model as a transformers folder."""
    torch.save(original_sam().state_dict(), folder / "tiny.pth")
    convert_original(folder / "tiny.pth", folder / "sam")
    return folder / "sam"


def random_sam(folder: Path, **changes: Any) -> Sam:
    """A teacher with a random base; ``changes`` are those of the settings."""
    return Sam.load(save_sam(folder), classes=("a", "b"), prompts={}, settings=sam_settings(**changes))


def scene(objects: int = 3, *, size: tuple[int, int] = (48, 80), crowds: tuple[int, ...] = (), seed: int = 0) -> Sample:
    """An image (height, width) of noise with bright ellipses, each an object; ``crowds`` are those marked so."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 120, (*size, 3), dtype=np.uint8)
    rows, columns = np.mgrid[: size[0], : size[1]]
    masks = np.zeros((objects, *size), np.bool_)
    boxes = np.zeros((objects, 4), np.float32)
    for mask, box in zip(masks, boxes, strict=True):
        radii = rng.uniform(4, 9, 2)
        y, x = rng.uniform(radii, np.subtract(size, radii))
        mask[:] = ((rows + 0.5 - y) / radii[0]) ** 2 + ((columns + 0.5 - x) / radii[1]) ** 2 < 1
        image[mask] = 255 - image[mask]
        box[:] = x - radii[1], y - radii[0], x + radii[1], y + radii[0]
    return Sample(
        image=image,
        boxes_xyxy=boxes,
        class_indices=np.arange(objects) % 2,
        is_crowd=np.isin(np.arange(objects), crowds),
        annotation_indices=np.arange(objects),
        masks=masks,
    )

"""Train the tiny SAM from scratch on drawn scenes: about a quarter of an hour on one CPU core.

    python examples/tiny_teachers/train_sam.py                          # writes examples/tiny_teachers/sam/
    python examples/tiny_teachers/train_sam.py --steps 50 --output out  # a quick test

The architecture is SAM's, the objective and the prompts are those of :mod:`engine.teachers.sam.model`; only the sizes
are small: images of 256 pixels in patches of 16, so that masks have a cell for each 4x4 pixels.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from scenes import draw_scene
from torch import nn
from transformers import SamConfig, SamImageProcessor, SamModel

from engine.config import LoraSettings
from engine.dataset.types import Sample
from engine.models.base import Batch
from engine.spec import LoraPreset
from engine.teachers.sam.loss import dice_loss
from engine.teachers.sam.model import Sam
from engine.teachers.sam.settings import SamSettings

HERE = Path(__file__).parent
IMAGE_SIZE, PATCH_SIZE = 256, 16
WIDTH = 96
"""Channels of the decoder and of the image embedding."""

CONFIG = SamConfig(
    vision_config={
        "hidden_size": 96,
        "output_channels": WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,  # few, as attention over all patches costs most
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
        "window_size": 7,
        "global_attn_indexes": [2],
        "mlp_ratio": 3.0,
        "num_pos_feats": WIDTH // 2,
        "initializer_range": 0.02,  # the library's 1e-10 is for weights that are loaded
    },
    prompt_encoder_config={"hidden_size": WIDTH, "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE},
    mask_decoder_config={
        "hidden_size": WIDTH,
        "mlp_dim": 2 * WIDTH,
        "num_attention_heads": 4,
        "attention_downsample_rate": 1,
        "iou_head_hidden_dim": WIDTH,
        "layer_norm_eps": 1e-5,  # as in segment-anything
    },
)

SETTINGS = SamSettings(
    base_model="tiny",
    revision=None,
    lora=LoraSettings(preset=LoraPreset.ALL, rank=1, alpha=1, dropout=0.0),  # not used: everything is trained
    epochs=1,
    batch_size=6,
    learning_rate=1e-3,
    weight_decay=0.01,
    warmup_fraction=0.05,
    schedule="cosine",
    clip_norm=1.0,
    evaluations=1,
    objects_per_image=6,
    box_jitter=0.05,
    point_share=0.2,
    focal_weight=20.0,
    dice_weight=1.0,
    iou_weight=1.0,
)


def build_model() -> SamModel:
    """Build a new model, with weights from torch's global generator."""
    model = SamModel(CONFIG)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(module.weight)
    # Lower frequencies than the published ones, and positions added to the image encoder's embedding from the start:
    # localization is learned in hundreds of steps instead of thousands.
    nn.init.normal_(model.shared_image_embedding.positional_embedding, std=0.4)
    with torch.no_grad():
        places = model.get_image_wide_positional_embeddings()[0].permute(1, 2, 0)
        model.vision_encoder.pos_embed[..., :WIDTH] = 0.5 * places
    model.tie_weights()
    return model


def draw_sample(rng: np.random.Generator, smallest: float = 0.0) -> Sample:
    """Draw a scene and keep objects that cover at least ``smallest`` of the image."""
    while True:
        image, objects = draw_scene(rng, (IMAGE_SIZE, IMAGE_SIZE))
        objects = [o for o in objects if o.mask.mean() >= smallest]
        if objects:
            break
    return Sample(
        image=image,
        boxes_xyxy=np.asarray([o.box_xyxy for o in objects], np.float32),
        class_indices=np.zeros(len(objects), np.int64),
        is_crowd=np.zeros(len(objects), np.bool_),
        annotation_indices=np.arange(len(objects)),
        masks=np.stack([o.mask for o in objects]),
    )


def mean_iou(teacher: Sam, samples: list[Sample]) -> float:
    """Compute the mean IoU of masks prompted by true boxes, over all objects."""
    ious = []
    for sample, seen in zip(samples, teacher.predict(samples), strict=True):
        true = coco_mask.encode(np.asfortranarray(sample.masks.transpose(1, 2, 0)).view(np.uint8))
        of_object = np.zeros(len(sample))
        if len(seen):
            pairs = coco_mask.iou(seen.masks, true, [0] * len(true))
            of_object[seen.prompt_indices] = pairs[np.arange(len(seen)), seen.prompt_indices]
        ious.extend(of_object)
    return float(np.mean(ious))


def learning_rate(step: int, steps: int) -> float:
    """Return the learning rate: linear warm-up, then cosine decay to zero."""
    warmup = SETTINGS.warmup_fraction * steps
    if step < warmup:
        return SETTINGS.learning_rate * (step + 1) / warmup
    return SETTINGS.learning_rate * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


def smallest_at(share: float) -> float:
    """Return the minimum size of prompted objects as a share of the image: large objects first, all after 60 %."""
    return 0.05 * max(0.0, 1 - share / 0.6)


def first_losses(teacher: Sam, batch: Batch) -> dict[str, torch.Tensor]:
    """Compute dice, and cross entropy with equal weights of object and background.

    With random weights SAM's own loss leads to empty masks: its focal loss pushes every pixel to the background
    before the model has features that distinguish objects.
    """
    embeddings = teacher._embed(batch["pixel_values"])
    logits, _ = teacher._decode(embeddings[batch["images"]], boxes=batch["boxes"])
    targets = batch["masks"][:, None]
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    inside, outside = targets.sum((-2, -1)).clamp(min=1), (1 - targets).sum((-2, -1)).clamp(min=1)
    balanced = (entropy * targets).sum((-2, -1)) / inside + (entropy * (1 - targets)).sum((-2, -1)) / outside
    dice = dice_loss(logits, targets)
    return {
        "loss": balanced.mean() + dice.mean(),
        "entropy": balanced.mean().detach(),
        "dice": dice.mean().detach(),
    }


def train(teacher: Sam, *, steps: int, seed: int) -> None:
    """Train all weights except the positional encoding, which SAM draws once and does not train."""
    teacher.model.requires_grad_(True)
    teacher.model.shared_image_embedding.requires_grad_(False)
    parameters = [p for p in teacher.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, weight_decay=SETTINGS.weight_decay)
    held_out = [draw_sample(np.random.default_rng((seed, 1, i))) for i in range(32)]
    begin = time.monotonic()
    for step in range(steps):
        rngs = [np.random.default_rng((seed, 0, step, i)) for i in range(SETTINGS.batch_size)]
        smallest = smallest_at(step / steps)
        batch = teacher.collate([teacher.example(draw_sample(rng, smallest), rng) for rng in rngs])
        first = step < steps // 2
        losses = first_losses(teacher, batch) if first else teacher.loss(batch, count=teacher.count(batch))
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(parameters, SETTINGS.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 20 == 19 or step == steps - 1:
            parts = "  ".join(f"{name} {value.item():.3f}" for name, value in losses.items())
            print(f"step {step + 1}/{steps}  {parts}  {time.monotonic() - begin:.0f} s", flush=True)
        if step % 200 == 199 or step == steps - 1:
            print(f"mean IoU on held-out scenes: {mean_iou(teacher, held_out):.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=HERE / "sam")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.manual_seed(args.seed)
    teacher = Sam(build_model(), classes=("object",), settings=SETTINGS)
    print(f"{sum(p.numel() for p in teacher.model.parameters()):,} parameters")
    train(teacher, steps=args.steps, seed=args.seed)
    teacher.model.save_pretrained(args.output)
    SamImageProcessor(
        size={"longest_edge": IMAGE_SIZE}, pad_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    ).save_pretrained(args.output)


if __name__ == "__main__":
    main()

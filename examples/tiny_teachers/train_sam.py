"""Train the tiny SAM from scratch on drawn scenes, in less than 90 minutes on two CPU cores.

    python examples/tiny_teachers/train_sam.py                          # writes examples/tiny_teachers/sam/
    python examples/tiny_teachers/train_sam.py --steps 50 --output out  # a quick test

The architecture is SAM's, prompts and examples are those of :mod:`engine.teachers.sam.model`; only the sizes are small:
images of 256 pixels in patches of 16, so that masks have a cell for each 4x4 pixels. Three choices make it learn in
thousands of steps instead of millions: it begins with attention that compares positions, see :func:`compare_positions`;
large objects come first; and object and background weigh the same at first, see :func:`mask_losses`.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from model_card import write_card
from pycocotools import mask as coco_mask
from scenes import draw_scene
from torch import Tensor, nn
from transformers import BaseImageProcessor, SamConfig, SamImageProcessor, SamModel

from engine.config import LoraSettings
from engine.dataset.types import Sample
from engine.models.base import Batch
from engine.spec import LoraPreset
from engine.teachers.sam.loss import dice_loss, mask_iou
from engine.teachers.sam.model import Sam
from engine.teachers.sam.settings import SamSettings

HERE = Path(__file__).parent
IMAGE_SIZE, PATCH_SIZE = 256, 16
WIDTH = 96
"""Channels of the decoder and of the image embedding."""

CONFIG = SamConfig(
    vision_config={
        "hidden_size": 128,
        "output_channels": WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
        "window_size": 8,
        "global_attn_indexes": [1, 3],
        "mlp_ratio": 3.0,
        "num_pos_feats": WIDTH // 2,
        "initializer_range": 0.02,  # the library's 1e-10 is for weights that are loaded
    },
    prompt_encoder_config={"hidden_size": WIDTH, "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE},
    mask_decoder_config={
        "hidden_size": WIDTH,
        "mlp_dim": 2 * WIDTH,
        "num_attention_heads": 4,
        "iou_head_hidden_dim": WIDTH,
        "layer_norm_eps": 1e-5,  # as in segment-anything
    },
)

OBJECTS = 5
"""Objects per image in training."""

SETTINGS = SamSettings(
    base_model="tiny",
    revision=None,
    lora=LoraSettings(preset=LoraPreset.ALL, rank=1, alpha=1, dropout=0.0),  # not used: everything is trained
    epochs=1,
    batch_size=5,
    learning_rate=1.5e-3,
    weight_decay=0.01,
    warmup_fraction=0.01,
    schedule="cosine",
    clip_norm=1.0,
    evaluations=1,
    objects_per_image=OBJECTS,
    box_jitter=0.03,
    point_share=0.2,
    focal_weight=20.0,
    dice_weight=1.0,
    iou_weight=0.5,
)
BOXES_ONLY = 0.3
"""Share of the steps before points are prompts as well: they are harder."""
LARGE_FIRST = 0.35
"""Share of the steps in which small objects are fewer."""
EMA_DECAY = 0.998
SCENES = 200
"""Scenes of the evaluation at the end."""


def build_model() -> SamModel:
    """Build a new model, with weights from torch's global generator."""
    model = SamModel(CONFIG)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(module.weight)
    with torch.no_grad():
        compare_positions(model)
        model.vision_encoder.pos_embed.zero_()
        places = model.get_image_wide_positional_embeddings()[0].permute(1, 2, 0)
        model.vision_encoder.pos_embed[..., :WIDTH] = 0.5 * places
        model.vision_encoder.neck.layer_norm2.weight.fill_(0.5)
    return model


def compare_positions(model: SamModel, *, lowest: float = 0.2, highest: float = 2.5, strength: float = 2.0) -> None:
    """Let each head of the decoder's cross-attention begin as a comparison of positions at one scale.

    Positions are encoded by sines and cosines of some frequencies. Here they are sorted, each head gets a band of them,
    and queries and keys begin with the same projection: so a place of the image attends to a near corner of the box.
    With random projections that is what takes SAM longest to learn.

    Args:
        model: Changed in place.
        lowest: Lowest frequency, in periods per half image.
        highest: Highest frequency.
        strength: Scale of the projections.
    """
    heads, count = CONFIG.mask_decoder_config.num_attention_heads, WIDTH // 2
    frequencies = torch.exp(torch.linspace(math.log(lowest), math.log(highest), count)) * (
        0.7 + 0.6 * torch.rand(count)
    )
    angles = 2 * math.pi * torch.rand(count)
    model.shared_image_embedding.positional_embedding.copy_(torch.stack([angles.cos(), angles.sin()]) * frequencies)
    model.tie_weights()
    blocks = model.mask_decoder.transformer.layers
    attentions = [one for block in blocks for one in (block.cross_attn_token_to_image, block.cross_attn_image_to_token)]
    for i, attention in enumerate([*attentions, model.mask_decoder.transformer.final_attn_token_to_image]):
        band, of_head = count // heads, attention.internal_dim // heads // 2
        stride = band // of_head
        for head in range(heads):
            chosen = head * band + i // 2 % stride + stride * torch.arange(of_head)
            rows = head * 2 * of_head + torch.arange(2 * of_head)
            for projection in (attention.q_proj, attention.k_proj):
                projection.weight[rows] *= 0.3
                projection.weight[rows, torch.cat([chosen, count + chosen])] += strength
        attention.q_proj.bias.zero_()
        attention.k_proj.bias.zero_()


def draw_sample(rng: np.random.Generator, *, early: float = 0.0, objects: int | None = None) -> Sample:
    """Draw a scene.

    Args:
        rng: Random generator.
        early: Share 0..1 of scenes that have large objects only; these are the larger, the higher it is.
        objects: Maximum number of objects that the sample has, of those in the scene.
    """
    large = rng.random() < early
    diameter = 0.05 + 0.3 * early
    while True:
        if large:
            image, drawn = draw_scene(rng, (IMAGE_SIZE, IMAGE_SIZE), dense=False, smallest=diameter, most=8)
            drawn = [one for one in drawn if one.mask.mean() >= diameter**2 / 8]  # others are largely outside
        else:
            image, drawn = draw_scene(rng, (IMAGE_SIZE, IMAGE_SIZE))
        if drawn:
            break
    drawn = [drawn[i] for i in rng.permutation(len(drawn))[:objects]]
    sample = Sample.of(image, [one.box_xyxy for one in drawn], [0] * len(drawn))
    return replace(sample, masks=np.stack([one.mask for one in drawn]))


def mask_losses(teacher: Sam, batch: Batch, *, late: float) -> dict[str, Tensor]:
    """Compute dice, cross entropy, and the error of predicted IoUs.

    At first object and background have equal weights in the cross entropy, in the end (``late`` = 1) all pixels have:
    that is what puts the edge where it belongs.

    SAM's own loss leads to empty masks with random weights: its focal loss pushes every pixel to the background
    before the model has features that distinguish objects. As there, a box has one mask, and of the three masks
    for a point the best one counts.
    """
    embeddings = teacher._embed(batch)
    prompts = len(batch["images"])
    parts: dict[str, Tensor] = {}
    total = torch.zeros(())
    for prompt, chosen in (("boxes", ~batch["by_point"]), ("points", batch["by_point"])):
        if not chosen.any():
            continue
        given = {prompt: batch[prompt][chosen]}
        logits, ious = teacher._decode(embeddings[batch["images"][chosen]], several=prompt == "points", **given)
        targets = batch["masks"][chosen][:, None].expand_as(logits)
        entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        inside, outside = targets.sum((-2, -1)).clamp(min=1), (1 - targets).sum((-2, -1)).clamp(min=1)
        balanced = (entropy * targets).sum((-2, -1)) / inside + (entropy * (1 - targets)).sum((-2, -1)) / outside
        losses = (1 - late) * balanced + late * entropy.sum((-2, -1)) / inside + dice_loss(logits, targets)
        best = losses.detach().argmin(dim=1, keepdim=True)
        true_ious = mask_iou(logits, targets)
        error = (ious - true_ious).square().mean(dim=1)
        total = total + (losses.gather(1, best).sum() + SETTINGS.iou_weight * error.sum()) / prompts
        parts[f"IoU {prompt}"] = true_ious.gather(1, best).mean()
    return {"loss": total, **parts}


def learning_rate(step: int, steps: int) -> float:
    """Return the learning rate: linear warm-up, then cosine decay to zero."""
    warmup = SETTINGS.warmup_fraction * steps
    if step < warmup:
        return SETTINGS.learning_rate * (step + 1) / warmup
    return SETTINGS.learning_rate * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


def draw_batch(teacher: Sam, seed: int, step: int, share: float) -> Batch:
    """Draw the batch of a step, of which ``share`` of all steps are before."""
    examples = []
    for i in range(SETTINGS.batch_size):
        rng = np.random.default_rng((seed, 0, step, i))
        sample = draw_sample(rng, early=max(0.0, 1 - share / LARGE_FIRST), objects=OBJECTS)
        examples.append(teacher.example(sample, rng))
    batch = teacher.collate(examples)
    if share < BOXES_ONLY:
        batch["by_point"] = torch.zeros_like(batch["by_point"])
    return batch


def train(teacher: Sam, *, steps: int, seed: int, encoder_rate: float = 1.0) -> None:
    """Train all weights except the positional encoding; the model ends with their exponential moving average.

    The learning rate of the image encoder is ``encoder_rate`` times that of the rest.
    """
    teacher.model.requires_grad_(True)
    teacher.model.shared_image_embedding.requires_grad_(False)
    named = {name: p for name, p in teacher.model.named_parameters() if p.requires_grad}
    parameters = list(named.values())
    averages = [p.detach().clone() for p in parameters]
    groups = [
        {"params": [p for name, p in named.items() if name.startswith("vision_encoder.")], "share": encoder_rate},
        {"params": [p for name, p in named.items() if not name.startswith("vision_encoder.")], "share": 1.0},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=SETTINGS.weight_decay)
    begin = time.monotonic()
    for step in range(steps):
        share = step / steps
        losses = mask_losses(teacher, draw_batch(teacher, seed, step, share), late=min(max((share - 0.3) / 0.3, 0), 1))
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(parameters, SETTINGS.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = group["share"] * learning_rate(step, steps)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(averages, parameters, 1 - min(EMA_DECAY, (1 + step) / (10 + step)))
        if step % 50 == 49:
            parts = "  ".join(f"{name} {value.item():.3f}" for name, value in losses.items())
            print(f"step {step + 1}/{steps}  {parts}  {time.monotonic() - begin:.0f} s", flush=True)
        if step % 500 == 499:
            figures = evaluate(teacher, held_out(seed, 24))
            print(f"    {figures}  {time.monotonic() - begin:.0f} s", flush=True)
    with torch.no_grad():
        for parameter, average in zip(parameters, averages, strict=True):
            parameter.copy_(average)


def held_out(seed: int, count: int) -> list[Sample]:
    """Draw scenes that are not trained on."""
    return [draw_sample(np.random.default_rng((seed, 1, i))) for i in range(count)]


def evaluate(teacher: Sam, samples: list[Sample]) -> dict[str, float]:
    """Compute the mean IoU of masks prompted by true boxes: of all objects, and by the side of the object's square."""
    ious: list[float] = []
    areas: list[int] = []
    for sample, seen in zip(samples, teacher.predict(samples), strict=True):
        assert sample.masks is not None
        true = coco_mask.encode(np.asfortranarray(sample.masks.transpose(1, 2, 0)).view(np.uint8))
        of_object = np.zeros(len(sample))
        if len(seen):
            pairs = coco_mask.iou(seen.masks, true, [0] * len(true))
            of_object[seen.prompt_indices] = pairs[np.arange(len(seen)), seen.prompt_indices]
        ious.extend(of_object)
        areas.extend(coco_mask.area(true))
    of_all, large = np.asarray(ious), np.asarray(areas) >= 32**2
    return {
        "mean IoU": round(float(of_all.mean()), 3),
        "mean IoU, objects of 32 x 32 pixels or more": round(float(of_all[large].mean()), 3),
        "share of objects with an IoU of 0.75 or more": round(float((of_all >= 0.75).mean()), 3),
    }


def save(model: nn.Module, folder: Path) -> None:
    """Write the weights in 16 bit, and a configuration by which loading converts them to 32."""
    model.half().save_pretrained(folder)
    model.config.dtype = torch.float32
    model.config.save_pretrained(folder)


def run(
    kind: type[Sam],
    build: Callable[[], nn.Module],
    settings: SamSettings,
    processor: BaseImageProcessor,
    *,
    script: Path,
    steps: int,
    encoder_rate: float = 1.0,
) -> None:
    """Train a tiny teacher of masks from nothing by command line, and write it with its model card.

    Args:
        kind: Class of the teacher.
        build: Returns its new model, with weights from torch's global generator.
        settings: Settings of the teacher.
        processor: Preprocessing to save with the weights.
        script: The script that calls this.
        steps: Default number of steps.
        encoder_rate: See :func:`train`.
    """
    title = f"Tiny {kind.name.traits.title}"
    parser = argparse.ArgumentParser(description=f"{title}, trained from scratch on drawn scenes.")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=HERE / kind.name.slug)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.manual_seed(args.seed)
    begin = time.monotonic()
    teacher = kind(build(), classes=("object",), settings=settings)
    print(f"{sum(p.numel() for p in teacher.model.parameters()):,} parameters", flush=True)
    train(teacher, steps=args.steps, seed=args.seed, encoder_rate=encoder_rate)
    minutes = (time.monotonic() - begin) / 60
    save(teacher.model, args.output)
    processor.save_pretrained(args.output)
    saved = kind.load(args.output, classes=("object",), prompts={}, settings=settings)
    figures = evaluate(saved, held_out(args.seed, SCENES))
    print(figures)
    write_card(
        args.output,
        title=title,
        script=script,
        seed=args.seed,
        steps=args.steps,
        minutes=minutes,
        scenes=SCENES,
        prompt="true boxes",
        figures=figures,
    )


def main() -> None:
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    processor = SamImageProcessor(size={"longest_edge": IMAGE_SIZE}, pad_size=size)
    run(Sam, build_model, SETTINGS, processor, script=Path(__file__), steps=4000)


if __name__ == "__main__":
    main()

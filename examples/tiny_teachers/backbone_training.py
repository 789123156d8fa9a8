"""First training of the tiny Grounding DINO's backbone, without text: kind and box of the object at each position.

Every position inside an object learns the object, so features are learned in a fraction of the steps that the detector
would need, and a step costs a third. One linear layer a level reads the features.
"""

from __future__ import annotations

import math
import multiprocessing
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from drawings import Plan, Scene, batches
from kinds import SYNONYMS
from scenes import Object
from torch import Tensor, nn

from engine.dataset.images.preprocessing import MEAN, STD

STRIDES = (8, 16, 32)
NAMES = (*SYNONYMS, "novel")
INSIDE = 0.3
"""Positions that learn an object are at most this share of its sides away from its centre."""

SIDES = (1.5, 12.0)
"""Smallest and largest longer side of the objects of a level, in strides."""

BACKGROUND_WEIGHT, BOX_WEIGHT = 0.5, 1.0
LEARNING_RATE, WEIGHT_DECAY, WARMUP_STEPS = 2e-3, 0.02, 50


class DenseHeads(nn.Module):
    """Linear layers that read kinds, background and boxes from the feature maps of a backbone."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Conv2d(c, len(NAMES) + 1 + 4, 1) for c in channels)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Return (B, K + 5, h, w) for each map: logits of kinds and background, then the box."""
        return [head(one) for head, one in zip(self.levels, maps, strict=True)]


def dense_targets(things: list[Object], shape: tuple[int, int], stride: int) -> tuple[Tensor, Tensor]:
    """Return labels (h, w) and boxes (4, h, w) of a level; labels are -1 where nothing is learned.

    Boxes are the centre's offset and the logarithm of the sides, in strides.
    """
    background = len(NAMES)
    labels = np.full(shape, background, np.int64)
    boxes = np.zeros((4, *shape), np.float32)
    y, x = ((np.arange(n) + 0.5) * stride for n in shape)
    for thing in things:  # from back to front
        left, top, right, bottom = thing.box_xyxy
        width, height = max(right - left, 1.0), max(bottom - top, 1.0)
        across, down = np.abs(x - (left + right) / 2) / width, np.abs(y - (top + bottom) / 2) / height
        labels[np.ix_(down < 0.5, across < 0.5)] = -1
        if not SIDES[0] <= max(width, height) / stride <= SIDES[1]:
            continue
        inner = np.ix_(down < INSIDE, across < INSIDE)
        labels[inner] = NAMES.index(thing.name)
        boxes[0][inner] = np.broadcast_to(((left + right) / 2 - x) / stride, shape)[inner]
        boxes[1][inner] = np.broadcast_to((((top + bottom) / 2 - y) / stride)[:, None], shape)[inner]
        boxes[2][inner], boxes[3][inner] = math.log(width / stride), math.log(height / stride)
    return torch.from_numpy(labels), torch.from_numpy(boxes)


def dense_loss(outputs: list[Tensor], scenes: list[Scene]) -> tuple[Tensor, int, int]:
    """Compute the loss, a scalar; also count the positions inside objects, and those whose kind is found."""
    logits, found, labels, true = [], [], [], []
    for out, stride in zip(outputs, STRIDES, strict=True):
        shape = (out.shape[2], out.shape[3])
        for one, (_, things) in zip(out, scenes, strict=True):
            label, box = dense_targets(things, shape, stride)
            logits.append(one[:-4].flatten(1).T)
            found.append(one[-4:].flatten(1).T)
            labels.append(label.flatten())
            true.append(box.flatten(1).T)
    score, at, label, wanted = torch.cat(logits), torch.cat(found), torch.cat(labels), torch.cat(true)
    inside = (label >= 0) & (label < len(NAMES))
    outside = label == len(NAMES)
    entropy = F.cross_entropy(score, label.clamp(min=0), reduction="none")
    count = max(int(inside.sum()), 1)
    loss = entropy[inside].sum() / count + BACKGROUND_WEIGHT * entropy[outside].mean()
    loss = loss + BOX_WEIGHT * F.smooth_l1_loss(at[inside], wanted[inside], reduction="sum") / count
    right = int((score[inside][:, : len(NAMES)].argmax(1) == label[inside]).sum())
    return loss, count, right


def train_backbone(backbone: Any, plan: Plan, *, seed: int, minutes: float) -> None:
    """Train a backbone in place.

    Args:
        backbone: Model with ``feature_maps`` of strides 8, 16 and 32, and ``channels``.
        plan: Stages and steps.
        seed: Random seed of the scenes.
        minutes: Time limit; a busy machine takes fewer steps.
    """
    for module in backbone.modules():
        if isinstance(
            module, nn.Linear | nn.Conv2d
        ):  # the library's weights are so small that nothing is learned at first
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    heads = DenseHeads(list(backbone.channels))
    parameters = [*backbone.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.98))
    begin, losses, seen, right = time.monotonic(), [], 0, 0
    clock = multiprocessing.Value("d", 0.0)
    backbone.train()
    for step, scenes in zip(range(plan.steps), batches(plan, seed, clock), strict=False):
        clock.value = (time.monotonic() - begin) / (60 * minutes)
        progress = max(step / plan.steps, clock.value)
        if progress >= 1:
            break
        loss, count, correct = dense_loss(heads(backbone(pixels(scenes)).feature_maps), scenes)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min((step + 1) / WARMUP_STEPS, 0.5 * (1 + math.cos(math.pi * progress)))
        optimizer.step()
        losses.append(loss.item())
        seen, right = seen + count, right + correct
        if (step + 1) % 200 == 0:
            seconds = time.monotonic() - begin
            kinds = right / max(seen, 1)
            print(
                f"backbone {step + 1} ({progress:.0%}) loss {np.mean(losses):.2f}, kinds {kinds:.3f} {seconds:.0f} s",
                flush=True,
            )
            losses, seen, right = [], 0, 0


def pixels(scenes: list[Scene]) -> Tensor:
    """Return normalized pixels (B, 3, H, W) of scenes of one size."""
    images = torch.from_numpy(np.stack([image for image, _ in scenes])).permute(0, 3, 1, 2)
    mean, std = (torch.from_numpy(values).view(3, 1, 1) for values in (MEAN, STD))
    return (images / 255 - mean) / std

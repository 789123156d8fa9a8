"""Objective of the first part of training: many positions of the encoder learn each object.

One-to-one matching teaches the encoder one position per object and step. With several positions per object, as in
one-stage detectors, features are learned in a fraction of the steps (compare arXiv:2207.13080).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from denoising import naming_loss
from torch import Tensor

from engine.teachers.grounding_dino.loss import Targets, generalized_iou, sigmoid_focal_loss, to_corners

POSITIONS = 6
"""Positions that learn each object."""

CLASS_WEIGHT, L1_WEIGHT, GIOU_WEIGHT = 2.0, 5.0, 2.0


def centers(size: tuple[int, int], device: torch.device) -> Tensor:
    """Return the positions (N, 2) of feature maps of strides 8, 16 and 32, as shares of an image of ``size``."""
    found = []
    height, width = (v // 8 for v in size)
    for _ in range(3):
        y, x = torch.meshgrid(
            (torch.arange(height, device=device) + 0.5) / height,
            (torch.arange(width, device=device) + 0.5) / width,
            indexing="ij",
        )
        found.append(torch.stack([x, y], -1).flatten(0, 1))
        height, width = height // 2, width // 2
    return torch.cat(found)


@torch.no_grad()
def assign(logits: Tensor, boxes: Tensor, target: Targets, places: Tensor) -> tuple[Tensor, Tensor]:
    """Return positions and the objects that they learn, (K,) each: those of lowest cost with their centre inside."""
    tokens = target.tokens.to(logits.dtype)
    score = logits.sigmoid() @ (tokens / tokens.sum(-1, keepdim=True)).T  # (N, M)
    l1 = (boxes[:, None] - target.boxes[None]).abs().sum(-1)
    giou = generalized_iou(to_corners(boxes)[:, None], to_corners(target.boxes)[None])
    away = (places[:, None] - target.boxes[None, :, :2]).abs() / target.boxes[None, :, 2:].clamp(min=1e-3)
    cost = L1_WEIGHT * l1 - GIOU_WEIGHT * giou - score + 100 * (away.amax(-1) > 0.5) + 5 * away.amax(-1)
    position = cost.topk(min(POSITIONS, len(cost)), dim=0, largest=False).indices  # (K, M)
    chosen = torch.full_like(cost, torch.inf).scatter(0, position, cost.gather(0, position))
    best, thing = chosen.min(1)
    taken = best < torch.inf
    return taken.nonzero()[:, 0], thing[taken]


def dense_losses(
    logits: Tensor,
    boxes: Tensor,
    targets: Sequence[Targets],
    *,
    text_mask: Tensor,
    spans: Tensor,
    size: tuple[int, int],
) -> Tensor:
    """Compute the objective of all positions, a scalar.

    Args:
        logits: (B, N, T) for each position and token.
        boxes: (B, N, 4) center x, center y, width, height, as shares of the image.
        targets: The objects of each image.
        text_mask: (B, T) bool, False where a caption is padded.
        spans: (P, T) bool, the tokens of each phrase.
        size: Height and width of the images in pixels.
    """
    places = centers(size, boxes.device)
    logits = logits.masked_fill(~text_mask[:, None] | ~logits.isfinite(), 0)
    labels, seen, wanted = torch.zeros_like(logits), [], []
    names = logits.new_zeros(())
    for row, of_image, at, target in zip(labels, logits, boxes, targets, strict=True):
        if not len(target.boxes):
            continue
        position, thing = assign(of_image, at, target, places)
        row[position] = target.tokens[thing].to(row.dtype)
        names = names + naming_loss(of_image[position], row[position], spans)
        seen.append(at[position])
        wanted.append(target.boxes[thing])
    focal = (sigmoid_focal_loss(logits, labels) * text_mask[:, None]).sum()
    if not seen:
        return focal
    found, true = torch.cat(seen), torch.cat(wanted)
    giou = 1 - generalized_iou(to_corners(found), to_corners(true))
    total: Tensor = (
        CLASS_WEIGHT * focal + names + L1_WEIGHT * F.l1_loss(found, true, reduction="sum") + GIOU_WEIGHT * giou.sum()
    )
    return total / len(found)

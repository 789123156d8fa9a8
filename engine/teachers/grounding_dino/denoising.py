"""Contrastive denoising: reconstruct boxes close to true ones, and reject boxes a little farther away.

In addition to its own queries the decoder gets noised copies of the true boxes, in groups of a near and a far copy of
each object (DN-DETR, arXiv:2203.01305; DINO, arXiv:2203.03605, section 3.2; ``CdnQueryGenerator`` of mmdetection). The
target of each copy is known, so no matching is needed. The copies pass through the decoder separately: results of the
model's own queries do not change. Noise is drawn with the example, and the groups of an image are averaged, so that the
result does not depend on how a step is divided into batches.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.teachers.grounding_dino.loss import (
    Losses,
    Predictions,
    Targets,
    generalized_iou,
    in_crowds,
    sigmoid_focal_loss,
    to_corners,
)

WRONG_CLASS = 0.25
"""Share of the copies with a wrong class, as in DINO: otherwise the decoder could trust the given class."""


@dataclass(frozen=True)
class Copies:
    """Noised copies of the objects of B images, K of each, padded.

    Attributes:
        boxes: (B, K, 4) center x, center y, width, height, as shares of the image's width and height.
        tokens: (B, K, T) bool, the tokens of the class given with each copy.
        objects: (B, K) int64, the target object of a copy; -1: none; -2: padding.
        groups: (B, K) int64, the group of each copy; -1: padding.
    """

    boxes: Tensor
    tokens: Tensor
    objects: Tensor
    groups: Tensor

    def self_attention(self) -> Tensor:
        """Return the (B, 1, K, K) float32 attention mask to add to scores: copies attend to their own group."""
        apart = self.groups[:, :, None] != self.groups[:, None]
        return torch.zeros(apart.shape, device=apart.device).masked_fill(apart, torch.finfo(torch.float32).min)[:, None]


def noise(boxes: NDArray[np.float32], *, queries: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw noised copies of N objects in G groups: about ``queries`` copies in total, at least one group.

    Args:
        boxes: (N, 4) center x, center y, width, height, as shares of the image.
        queries: Requested number of copies.
        rng: Random generator of the example.

    Returns:
        (G, 2, N, 5): near and far copies. The first four numbers are a box in the given format; each corner is moved
        by up to half of the box's side, in far copies by half to a whole side. The fifth is a random number in 0..1
        for the class.
    """
    count = len(boxes)
    shape = (max(1, queries // (2 * count)) if count else 0, 2, count)
    center, side = boxes[:, :2], boxes[:, 2:]
    size = rng.random((*shape, 4)) + np.array([0, 1])[:, None, None]
    shift = rng.choice((-1, 1), (*shape, 4)) * size * np.hstack([side, side]) / 2
    corners = (np.hstack([center - side / 2, center + side / 2]) + shift).clip(0, 1)
    first, last = corners[..., :2], corners[..., 2:]
    parts = [(first + last) / 2, (last - first).clip(min=0), rng.random((*shape, 1))]
    return np.concatenate(parts, axis=-1).astype(np.float32)


def copies(noises: Sequence[Tensor], targets: Sequence[Targets], spans: Sequence[Tensor]) -> Copies:
    """Build the copies of B images with N objects each.

    Args:
        noises: (G, 2, N, 5) of each image, see :func:`noise`.
        targets: The objects, in the same order.
        spans: (classes, T) bool of each image: the tokens of the classes in its caption.
    """
    longest, length = max(1, *(n[..., 0].numel() for n in noises)), targets[0].tokens.shape[-1]
    boxes = torch.full((len(noises), longest, 4), 0.5)
    tokens = torch.zeros(len(noises), longest, length, dtype=torch.bool)
    objects, groups = (torch.full((len(noises), longest), empty) for empty in (-2, -1))
    for i, (drawn, target, names) in enumerate(zip(noises, targets, spans, strict=True)):
        total = drawn[..., 0].numel()
        if not total:
            continue
        group, far, found = (
            index.flatten() for index in torch.meshgrid(*map(torch.arange, drawn.shape[:3]), indexing="ij")
        )
        chance = drawn[..., 4].flatten()
        other = (chance / WRONG_CLASS * len(names)).long().clamp(max=len(names) - 1)
        boxes[i, :total] = drawn[..., :4].reshape(-1, 4)
        tokens[i, :total] = torch.where((chance < WRONG_CLASS)[:, None], names[other], target.tokens[found])
        objects[i, :total] = torch.where(far == 1, -1, found)
        groups[i, :total] = group
    return Copies(boxes, tokens, objects, groups)


@contextmanager
def decoder_call(decoder: Any) -> Iterator[dict[str, Any]]:
    """Record the arguments of the decoder inside the block, and let it accept any number of queries.

    The library repeats its text mask for ``config.num_queries`` queries; with 1 it is broadcast instead.
    """
    kept: dict[str, Any] = {}
    hook = decoder.register_forward_pre_hook(lambda _, __, arguments: kept.update(arguments), with_kwargs=True)
    shared, decoder.config = decoder.config, copy.copy(decoder.config)
    decoder.config.num_queries = 1
    try:
        yield kept
    finally:
        hook.remove()
        decoder.config = shared


def denoise(decoder: Any, call: dict[str, Any], given: Copies) -> Any:
    """Run the decoder on the copies, with the image and the text of ``call``.

    The content of a copy is the mean of the text features of its given class.
    """
    text = call["text_encoder_hidden_states"]
    share = given.tokens.to(text.dtype)
    content = (share / share.sum(-1, keepdim=True).clamp(min=1)) @ text
    return decoder(
        **call
        | {
            "inputs_embeds": content,
            "reference_points": given.boxes.to(text.dtype),
            "self_attn_mask": given.self_attention(),
        }
    )


def denoising_losses(
    predictions: Predictions, given: Copies, targets: Sequence[Targets], *, text_mask: Tensor, count: float
) -> Losses:
    """Compute the losses: near copies have their objects as targets, far ones none; mean over an image's groups.

    Args:
        predictions: (L, B, K, T) and (L, B, K, 4).
        given: The copies.
        targets: The objects of each image.
        text_mask: (B, T) bool, False where a caption is padded.
        count: Objects that the losses are averaged over.
    """
    logits, boxes = predictions.logits.float(), predictions.boxes.float()
    share = 1 / (given.groups.amax(1) + 1).clamp(min=1).to(boxes.dtype)  # (B,)
    image, query = (given.objects >= 0).nonzero(as_tuple=True)
    found = given.objects[image, query]
    offset = torch.tensor([0, *(len(target.boxes) for target in targets[:-1])], device=found.device).cumsum(0)
    wanted = torch.cat([target.boxes for target in targets])[offset[image] + found]
    labels = torch.zeros_like(logits)
    labels[:, image, query] = torch.cat([target.tokens for target in targets])[offset[image] + found].to(labels.dtype)

    real = (given.groups >= 0)[:, :, None] & text_mask[:, None]
    real = real & ~(in_crowds(given.boxes.float(), targets, length=real.shape[-1]) & (given.objects < 0)[:, :, None])
    focal = torch.where(real, sigmoid_focal_loss(logits.masked_fill(~real, 0), labels), 0)
    seen = boxes[:, image, query]
    l1 = (seen - wanted).abs().sum(-1)
    giou = 1 - generalized_iou(to_corners(seen), to_corners(wanted))
    return Losses(
        classification=(focal.sum((0, 2, 3)) * share).sum() / count,
        l1=(l1 * share[image]).sum() / count,
        giou=(giou * share[image]).sum() / count,
    )

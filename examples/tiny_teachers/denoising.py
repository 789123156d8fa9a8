"""Denoising: the decoder learns to restore objects from boxes with noise, without matching (arXiv:2203.01305)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.teachers.grounding_dino.layer_predictions import decoder_layers
from engine.teachers.grounding_dino.loss import Targets, generalized_iou, sigmoid_focal_loss, to_corners

QUERIES, MOST_GROUPS = 80, 4
SHIFT, STRETCH = 0.4, 0.5
"""Maximum noise: of centres in sides of the box, of the sides in logarithms."""


@contextmanager
def recorded_inputs(detector: nn.Module) -> Iterator[dict[str, Any]]:
    """Inside the block, keep the arguments with which the decoder is called."""
    kept: dict[str, Any] = {}

    def record(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        kept.update(kwargs)

    hook = detector.get_submodule("model.decoder").register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield kept
    finally:
        hook.remove()


def denoising_losses(
    detector: Any,
    inputs: dict[str, Any],
    targets: Sequence[Targets],
    *,
    text_mask: Tensor,
    spans: Tensor,
    weights: Sequence[float],
) -> Tensor:
    """Compute the objective of restored objects, summed over layers, a scalar.

    Each group of queries holds each object of an image once, and does not see the other groups.

    Args:
        detector: The library's model; all captions of the batch are the same.
        inputs: Its decoder's arguments.
        targets: The objects of each image.
        text_mask: (B, T) bool.
        spans: (P, T) bool, the tokens of each phrase.
        weights: Of classification, L1 and generalized IoU.
    """
    longest = max(len(target.boxes) for target in targets)
    if not longest:
        return text_mask.new_zeros((), dtype=torch.float32)
    groups = max(1, min(MOST_GROUPS, QUERIES // longest))
    boxes = nn.utils.rnn.pad_sequence([t.boxes for t in targets], batch_first=True, padding_value=0.5)
    tokens = nn.utils.rnn.pad_sequence([t.tokens for t in targets], batch_first=True)
    real = nn.utils.rnn.pad_sequence([torch.ones(len(t.boxes), dtype=torch.bool) for t in targets], batch_first=True)
    boxes, tokens, real = boxes.repeat(1, groups, 1), tokens.repeat(1, groups, 1), real.repeat(1, groups)
    noise = 2 * torch.rand(boxes.shape) - 1
    center = boxes[..., :2] + noise[..., :2] * SHIFT * boxes[..., 2:]
    noisy = torch.cat([center, boxes[..., 2:] * (noise[..., 2:] * STRETCH).exp()], -1).clamp(0.001, 0.999)

    count = noisy.shape[1]
    group = torch.arange(count) // longest
    hidden = (group[:, None] != group[None])[None] | ~real[:, None]
    words = detector.model.query_position_embeddings.weight
    chosen = words[torch.randint(len(words), (len(noisy), count))]
    changed = {
        "inputs_embeds": chosen,
        "reference_points": noisy,
        "self_attn_mask": hidden[:, None].float() * -1e4,
        "text_encoder_attention_mask": None,
    }
    decoded = detector.model.decoder(**{**inputs, **changed, "return_dict": True})
    outputs = SimpleNamespace(
        encoder_last_hidden_state_text=inputs["text_encoder_hidden_states"],
        init_reference_points=noisy,
        intermediate_hidden_states=decoded.intermediate_hidden_states,
        intermediate_reference_points=decoded.intermediate_reference_points,
    )
    total = torch.zeros(())
    named = tokens[real].float()
    for layer in decoder_layers(detector, outputs, text_mask):
        found, true = layer.boxes[real], boxes[real]
        logits = layer.logits[real].masked_fill(~text_mask[0], 0)
        giou = 1 - generalized_iou(to_corners(found), to_corners(true))
        focal = (sigmoid_focal_loss(logits, named) * text_mask[0]).sum()
        total = (
            total + weights[0] * focal + weights[1] * F.l1_loss(found, true, reduction="sum") + weights[2] * giou.sum()
        )
        total = total + naming_loss(logits, named, spans)
    return total / max(int(real.sum()), 1)


def naming_loss(logits: Tensor, named: Tensor, spans: Tensor) -> Tensor:
    """Compute the cross entropy of the phrases, summed over N objects.

    The phrases of a caption compete for an object; the focal loss alone accepts one score for all phrases for long.

    Args:
        logits: (N, T) for each token.
        named: (N, T), 1 at the tokens of the object's phrase.
        spans: (P, T) bool, the tokens of each phrase.
    """
    share = spans.float() / spans.sum(-1, keepdim=True)
    return F.cross_entropy(logits @ share.T, (named @ share.T).argmax(-1), reduction="sum")

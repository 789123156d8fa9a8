"""Logits and boxes of every layer of Grounding DINO, from the outputs of the library's model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from engine.teachers.grounding_dino.loss import Predictions


def decoder_layers(detector: Any, outputs: Any, text_mask: Tensor) -> Iterator[Predictions]:
    """Yield the predictions of each decoder layer, (B, Q, T) and (B, Q, 4): the library's heads, in 32 bit."""
    text = outputs.encoder_last_hidden_state_text.float()
    reference = outputs.init_reference_points
    for layer, hidden in enumerate(outputs.intermediate_hidden_states.float().unbind(1)):
        logits = detector.class_embed[layer](hidden, text, text_mask)[..., : text_mask.shape[1]]
        shift = detector.bbox_embed[layer](hidden)
        yield Predictions(logits, (shift + torch.special.logit(reference.float(), eps=1e-5)).sigmoid())
        reference = outputs.intermediate_reference_points[:, layer]


def proposals(outputs: Any, text_mask: Tensor) -> Iterator[Predictions]:
    """Yield the encoder's proposals that became queries, (B, Q, T) and (B, Q, 4), with gradient.

    The library returns detached boxes, and logits of the learned queries instead of the proposals; both are computed
    here from the encoder's outputs at all positions. A model without proposals yields nothing.
    """
    if outputs.enc_outputs_class is None:
        return
    queries = outputs.init_reference_points.shape[1]
    best = outputs.enc_outputs_class.max(-1).values.topk(queries, dim=1).indices[..., None]
    logits = outputs.enc_outputs_class[..., : text_mask.shape[1]]
    yield Predictions(
        logits.gather(1, best.expand(-1, -1, logits.shape[-1])).float(),
        outputs.enc_outputs_coord_logits.gather(1, best.expand(-1, -1, 4)).float().sigmoid(),
    )


def stack(layers: Iterable[Predictions]) -> Predictions:
    """Stack the predictions of L layers to (L, B, Q, T) and (L, B, Q, 4)."""
    logits, boxes = zip(*((layer.logits, layer.boxes) for layer in layers), strict=True)
    return Predictions(torch.stack(logits), torch.stack(boxes))

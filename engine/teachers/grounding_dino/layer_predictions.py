"""Logits and boxes of every layer of Grounding DINO, from the outputs of the library's model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from engine.teachers.grounding_dino.loss import Predictions


@contextmanager
def recorded_shifts(detector: Any) -> Iterator[list[Tensor]]:
    """Inside the block, collect the output of each decoder layer's box head, (B, Q, 4), with gradient.

    Yields:
        A list; after a forward pass its first entries are those of the decoder layers, in order.
    """
    shifts: list[Tensor] = []

    def record(head: nn.Module, args: Any, shift: Tensor) -> None:
        shifts.append(shift)

    hooks = [head.register_forward_hook(record) for head in dict.fromkeys(detector.model.decoder.bbox_embed)]
    try:
        yield shifts
    finally:
        for hook in hooks:
            hook.remove()


def decoder_layers(
    detector: Any, outputs: Any, text_mask: Tensor, shifts: Sequence[Tensor] = ()
) -> Iterator[Predictions]:
    """Yield the predictions of each decoder layer, (B, Q, T) and (B, Q, 4): the library's heads, in 32 bit.

    Args:
        detector: The library's model.
        outputs: Its outputs.
        text_mask: (B, T) bool, False where a caption is padded.
        shifts: The list of :func:`recorded_shifts`. With it, the gradient of a layer's boxes reaches the layer before
            too, as published ("look forward twice", arXiv:2203.03605, section 3.5; ``ref_points`` in
            ``transformer.py`` of IDEA-Research/GroundingDINO); the library detaches it. Values do not change.
    """
    text = outputs.encoder_last_hidden_state_text.float()
    start = reference = outputs.init_reference_points
    for layer, hidden in enumerate(outputs.intermediate_hidden_states.float().unbind(1)):
        logits = detector.class_embed[layer](hidden, text, text_mask)[..., : text_mask.shape[1]]
        yield Predictions(logits, _refined(reference, detector.bbox_embed[layer](hidden)))
        reference = outputs.intermediate_reference_points[:, layer]
        if shifts:
            start, reference = reference, _refined(start, shifts[layer])


def _refined(reference: Tensor, shift: Tensor) -> Tensor:
    """Return boxes (B, Q, 4) in 0..1, moved by a shift of their logits."""
    boxes: Tensor = (shift.float() + torch.special.logit(reference.float(), eps=1e-5)).sigmoid()
    return boxes


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

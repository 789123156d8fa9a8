"""Where image and words meet in Grounding DINO's encoder, for captions that are short beside the image.

Each head compares P places of the image with T tokens of the caption, ``(X Wq')(K)'``, and gathers ``softmax(…)(X
Wv')``. The library computes as it is written, products of all P places with matrices of four times the model's width.
Products may be taken in another order, so that it is the few tokens that are multiplied by the large matrices::

    (X Wq' + bq) K'      =  X (K Wq)' + (K bq)'
    S (X Wv' + bv)       =  (S X) Wv' + bv                 rows of S sum to one
    (S V) Wo' + bo       =  S (V Wo') + bo

What comes out is the same up to rounding, with a fraction of the work and of what is kept for the backward pass. LoRA
updates are added to the matrices first.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from engine.teachers.lora_linear import can_be_folded, folded_weight

_PROJECTIONS = ("vision_proj", "values_vision_proj", "out_vision_proj")


def words_first(model: nn.Module) -> None:
    """Let every fusion attention of a Grounding DINO multiply the words first, in place.

    Captions of so many tokens that it would be no less work, and layers whose LoRA update has dropout, go the library's
    way.
    """
    for module in model.modules():
        if type(module).__name__.endswith("GroundingDinoBiMultiHeadAttention"):
            module.forward = partial(_attend, module, module.forward)


def _attend(
    layer: Any,
    as_written: Any,
    vision_features: Tensor,
    text_features: Tensor,
    vision_attention_mask: Tensor | None = None,
    text_attention_mask: Tensor | None = None,
) -> Any:
    """See ``GroundingDinoBiMultiHeadAttention.forward``: masks are (B, P) and (B, T), True where padded."""
    few = layer.num_heads * text_features.shape[1] < layer.embed_dim
    dropout = layer.training and layer.dropout > 0
    if dropout or not few or not all(can_be_folded(getattr(layer, name)) for name in _PROJECTIONS):
        return as_written(vision_features, text_features, vision_attention_mask, text_attention_mask)
    heads, width = layer.num_heads, layer.head_dim

    def apart(rows: Tensor) -> Tensor:
        return rows.view(*rows.shape[:2], heads, width).transpose(1, 2)  # (B, heads, T, width)

    query, value, out = (folded_weight(getattr(layer, name)) for name in _PROJECTIONS)
    bias_query, bias_value, bias_out = (
        getattr(linear, "base_layer", linear).bias for linear in (getattr(layer, name) for name in _PROJECTIONS)
    )
    keys = apart(layer.text_proj(text_features)) * layer.scale
    values = apart(layer.values_text_proj(text_features))
    asked = keys @ query.view(heads, width, -1)  # (B, heads, T, d)
    told = values @ out.T.view(heads, width, -1)
    scores = asked.flatten(1, 2) @ vision_features.transpose(1, 2)  # (B, heads T, P)
    scores = scores.unflatten(1, (heads, -1)) + (keys * bias_query.view(heads, 1, width)).sum(-1, keepdim=True)
    at_places, at_tokens = scores, scores
    if vision_attention_mask is not None:
        at_places = scores.masked_fill(vision_attention_mask[:, None, None], float("-inf"))
    if text_attention_mask is not None:
        at_tokens = scores.masked_fill(text_attention_mask[:, None, :, None], float("-inf"))
    of_places, of_tokens = at_places.softmax(-1), at_tokens.softmax(-2)
    vision = of_tokens.flatten(1, 2).transpose(1, 2) @ told.flatten(1, 2) + bias_out
    seen = (of_places.flatten(1, 2) @ vision_features).unflatten(1, (heads, -1))  # (B, heads, T, d)
    seen = seen @ value.view(heads, width, -1).transpose(1, 2) + bias_value.view(heads, 1, width)
    text = layer.out_text_proj(seen.transpose(1, 2).flatten(2))
    return (vision, of_tokens.transpose(2, 3)), (text, of_places)

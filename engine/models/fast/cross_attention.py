"""Faster attention between P image positions and T tokens for small T, by another order of the matrix products.

Each of H heads projects both sides to a width w, computes scores ``(X Wq') K'``, then ``softmax(…)(X Wv')``.
In this order, all P positions are multiplied by matrices of width H w. In another order, only the few tokens are
multiplied by the large matrices::

    (X Wq' + bq) K'      =  X (K Wq)' + (K bq)'
    S (X Wv' + bv)       =  (S X) Wv' + bv                 rows of S sum to one
    (S V) Wo' + bo       =  S (V Wo') + bo

The result is the same up to rounding. This is less work if T < w, and tensors kept for the backward pass have no rows
of width H w. LoRA updates are added to the matrices first.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from engine.models.lora_linear import can_be_folded, folded_weight


def reorder_cross_attention(model: nn.Module) -> None:
    """Reorder text-image attention (Grounding DINO) or prompt-image attention (SAM), in place.

    The original order is used with too many tokens for it to be faster, or if a LoRA update has dropout.
    """
    for module in model.modules():
        name = type(module).__name__
        if name.endswith("GroundingDinoBiMultiHeadAttention"):
            module.forward = partial(_fuse, module, module.forward)
        elif name == "SamAttention":
            module.forward = partial(_cross, module, module.forward)


def apart(rows: Tensor, heads: int) -> Tensor:
    """Split heads: (B, T, H w) to (B, H, T, w)."""
    return rows.view(*rows.shape[:2], heads, -1).transpose(1, 2)


def compared(tokens: Tensor, places: Tensor, projection: Any) -> Tensor:
    """Return scores (B, H, T, P) of tokens (B, H, T, w) with places (B, P, d), projected to (B, P, H w)."""
    heads, width = tokens.shape[1], tokens.shape[3]
    asked = _exact(tokens, folded_weight(projection).view(heads, width, -1))
    scores = torch.unflatten(asked.flatten(1, 2) @ places.transpose(1, 2), 1, (heads, -1))
    bias: Tensor = _bias(projection)
    return scores + (tokens * bias.view(heads, 1, width)).sum(-1, keepdim=True)


def gathered(shares: Tensor, places: Tensor, projection: Any) -> Tensor:
    """Return (B, T, H w): sums of projected places (B, P, d) for each token, weighted by ``shares`` (B, H, T, P)."""
    heads = shares.shape[1]
    seen = torch.unflatten(shares.flatten(1, 2) @ places, 1, (heads, -1))  # (B, H, T, d)
    values = _exact(seen, folded_weight(projection).view(heads, -1, places.shape[-1]).transpose(1, 2))
    return values.transpose(1, 2).flatten(2) + _bias(projection)


def handed_out(shares: Tensor, values: Tensor, projection: Any) -> Tensor:
    """Return (B, P, d): projected sums of values (B, H, T, w) for each place, weighted by ``shares`` (B, H, T, P)."""
    heads, width = values.shape[1], values.shape[3]
    projected = _exact(values, folded_weight(projection).T.view(heads, width, -1))  # (B, H, T, d)
    return shares.flatten(1, 2).transpose(1, 2) @ projected.flatten(1, 2) + _bias(projection)


def _exact(tokens: Tensor, weight: Tensor) -> Tensor:
    """Multiply in 32 bit: in 16 bit a small update of a large weight would be lost. Tokens are few."""
    with torch.autocast(tokens.device.type, enabled=False):
        return tokens.float() @ weight


def _bias(projection: Any) -> Tensor:
    bias: Tensor = getattr(projection, "base_layer", projection).bias
    return bias


def _fuse(
    layer: Any,
    as_written: Any,
    vision_features: Tensor,
    text_features: Tensor,
    vision_attention_mask: Tensor | None = None,
    text_attention_mask: Tensor | None = None,
) -> Any:
    """See ``GroundingDinoBiMultiHeadAttention.forward``: masks are (B, P) and (B, T), True where padded."""
    folded = (layer.vision_proj, layer.values_vision_proj, layer.out_vision_proj)
    few = layer.num_heads * text_features.shape[1] < layer.embed_dim
    if not few or (layer.training and layer.dropout > 0) or not all(map(can_be_folded, folded)):
        return as_written(vision_features, text_features, vision_attention_mask, text_attention_mask)
    keys = apart(layer.text_proj(text_features), layer.num_heads) * layer.scale
    scores = compared(keys, vision_features, layer.vision_proj)
    at_places, at_tokens = scores, scores
    if vision_attention_mask is not None:
        at_places = scores.masked_fill(vision_attention_mask[:, None, None], float("-inf"))
    if text_attention_mask is not None:
        at_tokens = scores.masked_fill(text_attention_mask[:, None, :, None], float("-inf"))
    of_places, of_tokens = at_places.softmax(-1), at_tokens.softmax(-2)
    values = apart(layer.values_text_proj(text_features), layer.num_heads)
    vision = handed_out(of_tokens, values, layer.out_vision_proj)
    text = layer.out_text_proj(gathered(of_places, vision_features, layer.values_vision_proj))
    return (vision, of_tokens.transpose(2, 3)), (text, of_places)


def _cross(
    layer: Any,
    as_written: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_similarity: Tensor | None = None,
    **kwargs: Any,
) -> Any:
    """See ``SamAttention.forward``: query (B, N, Q, d), key and value (B, N, K, d)."""
    queries, keys = query.shape[2], key.shape[2]
    few = layer.num_attention_heads * min(queries, keys) < layer.internal_dim and max(queries, keys) > min(
        queries, keys
    )
    to_image = queries < keys
    folded = (layer.k_proj, layer.v_proj) if to_image else (layer.q_proj, layer.out_proj)
    if not few or attention_similarity is not None or not all(map(can_be_folded, folded)):
        return as_written(query=query, key=key, value=value, attention_similarity=attention_similarity, **kwargs)
    around, heads = query.shape[:2], layer.num_attention_heads
    query, key, value = (side.flatten(0, 1) for side in (query, key, value))
    if to_image:
        scores = compared(apart(layer.q_proj(query), heads) * layer.scaling, key, layer.k_proj)
        shares = scores.softmax(-1)
        result = layer.out_proj(gathered(shares, value, layer.v_proj))
    else:
        scores = compared(apart(layer.k_proj(key), heads) * layer.scaling, query, layer.q_proj)
        shares = scores.softmax(-2)
        result = handed_out(shares, apart(layer.v_proj(value), heads), layer.out_proj)
    return torch.unflatten(result, 0, around), shares

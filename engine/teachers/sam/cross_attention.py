"""Faster attention between prompts and image in the mask decoders of SAM and SAM 2, which differ in names only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engine.models.fast import replace_forward
from engine.models.fast.cross_attention import apart, compared, gathered, handed_out
from engine.models.fast.lora_linear import can_be_folded


def reorder_cross_attention(model: nn.Module) -> None:
    """Reorder the attention between prompts and image, in place; see :mod:`engine.models.fast.cross_attention`.

    The original order is used with too many tokens for it to be faster, or if a LoRA update has dropout.
    """
    replace_forward(model, _cross, where=lambda module: type(module).__name__ in _OUTPUT)


_OUTPUT = {"SamAttention": "out_proj", "Sam2Attention": "o_proj"}
"""Name of the output projection of each kind of attention layer."""


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
    out_proj = getattr(layer, _OUTPUT[type(layer).__name__])
    folded = (layer.k_proj, layer.v_proj) if to_image else (layer.q_proj, out_proj)
    if not few or attention_similarity is not None or not all(map(can_be_folded, folded)):
        return as_written(query=query, key=key, value=value, attention_similarity=attention_similarity, **kwargs)
    around, heads = query.shape[:2], layer.num_attention_heads
    query, key, value = (side.flatten(0, 1) for side in (query, key, value))
    if to_image:
        scores = compared(apart(layer.q_proj(query), heads) * layer.scaling, key, layer.k_proj)
        shares = scores.softmax(-1)
        result = out_proj(gathered(shares, value, layer.v_proj))
    else:
        scores = compared(apart(layer.k_proj(key), heads) * layer.scaling, query, layer.q_proj)
        shares = scores.softmax(-2)
        result = handed_out(shares, apart(layer.v_proj(value), heads), out_proj)
    return torch.unflatten(result, 0, around), shares

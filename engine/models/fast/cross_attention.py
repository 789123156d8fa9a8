"""Faster attention between P image positions and T tokens for small T, by another order of the matrix products.

Each of H heads projects both sides to a width w, computes scores ``(X Wq') K'``, then ``softmax(…)(X Wv')``.
In this order, all P positions are multiplied by matrices of width H w. In another order, only the few tokens are
multiplied by the large matrices::

    (X Wq' + bq) K'      =  X (K Wq)' + (K bq)'
    S (X Wv' + bv)       =  (S X) Wv' + bv                 rows of S sum to one
    (S V) Wo' + bo       =  S (V Wo') + bo

The result is the same up to rounding. This is less work if T < w, and tensors kept for the backward pass have no rows
of width H w. LoRA updates are added to the matrices first. Each teacher applies this to its own layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from engine.models.fast.lora_linear import folded_weight


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

"""The image encoder of SAM in two halves: the frozen first layers, which are cached, and the others."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def first_layers(encoder: Any, depth: int, pixel_values: Tensor) -> dict[str, Tensor]:
    """Return ``states`` of one image (1, 3, S, S): (h, w, D) after ``depth`` layers, (C, h, w) after the last."""
    states = encoder.patch_embed(pixel_values)
    if encoder.pos_embed is not None:
        states = states + encoder.pos_embed
    for layer in encoder.layers[:depth]:
        states = layer(states)
    if depth == len(encoder.layers):
        states = encoder.neck(states)
    return {"states": states[0]}


def last_layers(encoder: Any, depth: int, states: Tensor) -> Tensor:
    """Run the remaining layers on the states (B, …) of :func:`first_layers`; return (B, C, h, w)."""
    if depth == len(encoder.layers):
        return states
    for layer in encoder.layers[depth:]:
        states = layer(states)
    embeddings: Tensor = encoder.neck(states)
    return embeddings

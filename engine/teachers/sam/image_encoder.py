"""The image encoder of SAM in two halves: the frozen first stages, which are cached, and the others."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def stages(encoder: Any) -> list[nn.Module]:
    """Return the transformer layers, (B, h, w, D) to (B, h, w, D), and last the neck, to (B, C, h, w)."""
    return [*encoder.layers, encoder.neck]


def first_stages(encoder: Any, depth: int, pixel_values: Tensor) -> dict[str, Tensor]:
    """Return ``states`` of one image (1, 3, S, S) after ``depth`` stages: (h, w, D), or (C, h, w) after the neck."""
    states = encoder.patch_embed(pixel_values)
    if encoder.pos_embed is not None:
        states = states + encoder.pos_embed
    for stage in stages(encoder)[:depth]:
        states = stage(states)
    return {"states": states[0]}


def last_stages(encoder: Any, depth: int, states: Tensor) -> Tensor:
    """Run the remaining stages on the states (B, …) of :func:`first_stages`; return (B, C, h, w)."""
    for stage in stages(encoder)[depth:]:
        states = stage(states)
    return states

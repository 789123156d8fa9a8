"""Deformable attention that keeps only its inputs for the backward pass.

Each query samples a few points of each feature map, and returns their weighted sum. The library stacks all samples
(heads x queries x points x width numbers, a third of a gigabyte per layer for an image of 800 x 1333) and keeps them
for the backward pass. Here they are sampled again instead: on a CPU as a product with a sparse matrix
(:mod:`.deformable_attention_cpu`), on other devices map by map.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.models.fast import replace_forward
from engine.models.fast.deformable_attention_cpu import read


def keep_only_inputs(model: nn.Module) -> None:
    """Make every deformable attention of a model keep only its inputs, in place."""
    replace_forward(model, _attend, where=lambda module: type(module).__name__ == "MultiScaleDeformableAttention")


def _attend(
    layer: nn.Module,
    as_written: Any,
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_spatial_shapes_list: list[tuple[int, int]],
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """See :class:`_Read`, and ``MultiScaleDeformableAttention.forward``."""
    # Sampling points in 16 bit would be off by more than a pixel.
    inputs = (value.float(), sampling_locations.float(), attention_weights.float())
    way = read if value.device.type == "cpu" else map_by_map
    return way(*inputs, value_spatial_shapes_list).to(value.dtype)


def map_by_map(value: Tensor, places: Tensor, weights: Tensor, shapes: list[tuple[int, int]]) -> Tensor:
    """Compute the same as :func:`engine.models.fast.deformable_attention_cpu.read`, on any device."""
    result: Tensor = _Read.apply(value, places, weights, shapes)
    return result


class _Read(torch.autograd.Function):
    """Value (B, P, heads, d), places (B, Q, heads, maps, K, 2) in 0..1, weights (B, Q, heads, maps, K); result
    (B, Q, heads d).
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, places: Tensor, weights: Tensor, shapes: list[tuple[int, int]]) -> Tensor:
        ctx.save_for_backward(value, places, weights)
        ctx.shapes = shapes
        total = None
        for level, feature_map in enumerate(_maps(value, shapes)):
            read = _sample(feature_map, _grid(places, level))
            part = (read * _weights(weights, level)).sum(-1)
            total = part if total is None else total.add_(part)
        assert total is not None  # noqa: S101 - there is at least one map
        batch, queries = places.shape[:2]
        return total.view(batch, -1, queries).transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        value, places, weights = ctx.saved_tensors
        batch, queries, heads = places.shape[:3]
        gradient = gradients[0].transpose(1, 2).reshape(batch * heads, -1, queries)[..., None]
        of_value, of_places, of_weights = [], [], []
        for level, feature_map in enumerate(_maps(value, ctx.shapes)):
            with torch.enable_grad():
                source, grid = feature_map.detach().requires_grad_(), _grid(places, level).requires_grad_()
                read = _sample(source, grid)
            of_weights.append((read.detach() * gradient).sum(1))  # (B heads, Q, K)
            of_source, of_grid = torch.autograd.grad(read, (source, grid), gradient * _weights(weights, level))
            of_value.append(of_source.flatten(2))
            of_places.append(2 * of_grid)
        values = torch.cat(of_value, -1).view(batch, heads, -1, value.shape[1]).permute(0, 3, 1, 2)
        return values, _back(torch.stack(of_places, 2), batch), _back(torch.stack(of_weights, 2), batch), None


def _maps(value: Tensor, shapes: list[tuple[int, int]]) -> list[Tensor]:
    """Return the (B heads, d, h, w) map of each level."""
    batch, _, heads, width = value.shape
    parts = torch.split(value.permute(0, 2, 3, 1), [height * length for height, length in shapes], dim=-1)
    return [part.reshape(batch * heads, width, *shape) for part, shape in zip(parts, shapes, strict=True)]


def _grid(places: Tensor, level: int) -> Tensor:
    """Return (B heads, Q, K, 2) in -1..1, as in grid_sample."""
    return 2 * places[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1


def _weights(weights: Tensor, level: int) -> Tensor:
    """Return (B heads, 1, Q, K)."""
    return weights[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None]


def _sample(feature_map: Tensor, grid: Tensor) -> Tensor:
    return functional.grid_sample(feature_map, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _back(levels: Tensor, batch: int) -> Tensor:
    """Reshape (B heads, Q, maps, …) to (B, Q, heads, maps, …)."""
    return levels.view(batch, -1, *levels.shape[1:]).transpose(1, 2)

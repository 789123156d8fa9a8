"""Deformable attention that keeps only its inputs for the backward pass.

Each query samples a few points of each feature map, and returns their weighted sum. The library's own code, if no
kernel replaces it, stacks all samples (heads x queries x points x width numbers, a third of a gigabyte per layer for an
image of 800 x 1333) and keeps them for the backward pass. Here they are sampled again instead: on NVIDIA GPUs by a
fused kernel that never stores them (:mod:`.deformable_attention_triton`), on a CPU as a product with a sparse
matrix (:mod:`.deformable_attention_cpu`), elsewhere map by map.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.models.fast.deformable_attention_cpu import read

Reading = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Signature of :func:`engine.models.fast.deformable_attention_triton.read`."""

TOLERANCE = 1e-4
"""Maximum relative difference between the kernel and ``_Read``; 32-bit rounding gives 1e-6."""


def keep_only_inputs(model: nn.Module) -> None:
    """Make every deformable attention of a Grounding DINO keep only its inputs, in place."""
    for module in model.modules():
        if type(module).__name__ == "MultiScaleDeformableAttention":
            module.forward = _attend


def _attend(
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
    fused = _fused(value.device, *value.shape[2:], *attention_weights.shape[3:])
    if fused is not None:
        return fused(*inputs, value_spatial_shapes).to(value.dtype)
    way = read if value.device.type == "cpu" else map_by_map
    return way(*inputs, value_spatial_shapes_list).to(value.dtype)


@cache
def _fused(device: torch.device, heads: int, width: int, maps: int, points: int) -> Reading | None:
    """Return the kernel if it runs on the device and agrees with ``_Read``: tested once per process and layer shape."""
    if not _may_be_fused(device):
        return None
    try:
        from engine.models.fast.deformable_attention_triton import read as kernel

        apart = _apart(kernel, device, heads=heads, width=width, maps=maps, points=points)
        if not apart <= TOLERANCE:
            raise ArithmeticError(f"its results are off by {apart:.1e}")
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - compilers and drivers raise anything
        warnings.warn(
            f"deformable attention does without its fused kernel on {device}, which takes longer: "
            f"{type(error).__name__}: {error} (it needs Triton, which torch brings, and the headers of Python)",
            stacklevel=2,
        )
        return None
    return kernel


def _may_be_fused(device: torch.device) -> bool:
    """Return whether the kernel may run: not on AMD GPUs, where it is untested, nor without a C compiler."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return device.type == "cuda" and torch.version.hip is None and compiler is not None


def _apart(read: Reading, device: torch.device, *, heads: int, width: int, maps: int, points: int) -> float:
    """Return the largest relative difference between ``read`` and ``_Read``, over the result and all gradients.

    It may be called in the middle of a run: it has its own random generator, and does not record tensors for
    activation checkpointing. No sampling point is close to a pixel centre, where gradients jump.
    """
    draw, batch, queries = torch.Generator().manual_seed(0), 2, 70
    shapes = [(4 + level, 7 + 2 * level) for level in range(maps)]
    sizes = torch.tensor(shapes).flip(-1)[:, None]
    cells = torch.rand(batch, queries, heads, maps, points, 2, generator=draw) * (sizes + 2) - 1.5  # some outside
    drawn = (
        torch.randn(batch, sum(high * long for high, long in shapes), heads, width, generator=draw),
        (cells.floor() + 0.1 + 0.8 * (cells % 1) + 0.5) / sizes,
        torch.rand(batch, queries, heads, maps, points, generator=draw),
    )
    due = torch.randn(batch, queries, heads * width, generator=draw).to(device)
    ways: list[tuple[Callable[..., Tensor], Any]] = [(map_by_map, shapes), (read, torch.tensor(shapes, device=device))]
    found = []
    with torch.inference_mode(False), torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        for way, where in ways:
            inputs = [t.to(device, copy=True).requires_grad_() for t in drawn]
            result = way(*inputs, where)
            found.append((result.detach(), *torch.autograd.grad(result, inputs, due)))
    return float(torch.stack([(ours - right).norm() / right.norm() for right, ours in zip(*found, strict=True)]).max())


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

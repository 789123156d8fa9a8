"""Deformable attention as two Triton kernels, forward and backward, which never store the samples.

A program handles one head of one image and a tile of queries, and loops over maps and points. Interpolation and padding
are those of ``grid_sample`` (bilinear, zeros, ``align_corners=False``), arithmetic is 32 bit.

For each of the four pixels around a sampling point, the backward pass needs one number: the product of the pixel's
value with the gradient of the result. Its sums, weighted by the bilinear coefficients and by their derivatives, are the
gradients of the weight and of the sampling point. Gradients of the value use atomic additions, in arbitrary order, so
that runs on a GPU differ by rounding, as with ``grid_sample`` on CUDA.

This module imports Triton, which CUDA builds of torch include.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

NUMBERS = 512
"""Numbers per tile (queries x width): four for each thread of a program, which are one load."""


def read(value: Tensor, places: Tensor, weights: Tensor, shapes: Tensor) -> Tensor:
    """Return the weighted sum of the samples of each query, differentiable in the first three, which are float32.

    Args:
        value: (B, P, heads, d), the flattened maps, concatenated.
        places: (B, Q, heads, maps, K, 2) as x, y; 0..1 is the map.
        weights: (B, Q, heads, maps, K).
        shapes: (maps, 2) of int64, height and width, on the same device.

    Returns:
        (B, Q, heads d).
    """
    result: Tensor = _Read.apply(value, places, weights, shapes)
    return result


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, places: Tensor, weights: Tensor, shapes: Tensor) -> Tensor:
        ctx.save_for_backward(value, places, weights)
        ctx.shapes = shapes
        batch, queries, heads = places.shape[:3]
        result = value.new_empty(batch, queries, heads * value.shape[-1])
        _run(_forward, (value, places, weights), shapes, result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        value, places, weights = ctx.saved_tensors
        of_value = torch.zeros_like(value, memory_format=torch.contiguous_format)
        of_places, of_weights = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (places, weights))
        gradient = gradients[0].contiguous()
        _run(_backward, (value, places, weights), ctx.shapes, gradient, of_value, of_places, of_weights)
        return of_value, of_places, of_weights, None


def _run(kernel: Any, inputs: tuple[Tensor, Tensor, Tensor], shapes: Tensor, *others: Tensor) -> None:
    value, places, weights = (t.contiguous() for t in inputs)
    batch, length, heads, width = value.shape
    queries, (maps, points) = places.shape[1], weights.shape[-2:]
    padded = triton.next_power_of_2(width)
    tile = max(NUMBERS // padded, 1)
    with torch.cuda.device_of(value):  # type: ignore[no-untyped-call] # else it runs on the current one
        kernel[triton.cdiv(queries, tile), batch * heads](
            *(value, places, weights, shapes.contiguous(), *others, queries, length),
            heads=heads,
            width=width,
            maps=maps,
            points=points,
            tile=tile,
            padded=padded,
        )


@triton.jit(do_not_specialize=["queries", "length"])
def _forward(
    value: tl.tensor,
    places: tl.tensor,
    weights: tl.tensor,
    shapes: tl.tensor,
    result: tl.tensor,
    queries: tl.tensor,
    length: tl.tensor,
    heads: tl.constexpr,
    width: tl.constexpr,
    maps: tl.constexpr,
    points: tl.constexpr,
    tile: tl.constexpr,
    padded: tl.constexpr,
) -> None:
    rows, there, cells = _tile(queries, length, heads, width, tile)
    channels = tl.arange(0, padded)
    total = tl.zeros((tile, padded), tl.float32)
    for level in range(maps):
        high, long = tl.load(shapes + 2 * level).to(tl.int32), tl.load(shapes + 2 * level + 1).to(tl.int32)
        for point in tl.static_range(points):
            sample = (rows * maps + level) * points + point
            weight = tl.load(weights + sample, mask=there, other=0.0)
            left, beyond_left = _between(places + 2 * sample, long, there)
            top, beyond_top = _between(places + 2 * sample + 1, high, there)
            for corner in tl.static_range(4):
                right, below = corner % 2, corner // 2
                cell, inside = _cell(left + right, top + below, long, high, there)
                share = _share(beyond_left, right) * _share(beyond_top, below)
                at = (cells + cell * (heads * width))[:, None] + channels[None, :]
                read = tl.load(value + at, mask=inside[:, None] & (channels < width)[None, :], other=0.0)
                total += (weight * share)[:, None] * read
        cells += high.to(tl.int64) * long * (heads * width)
    out = (rows * width)[:, None] + channels[None, :]
    tl.store(result + out, total, mask=there[:, None] & (channels < width)[None, :])


@triton.jit(do_not_specialize=["queries", "length"])
def _backward(
    value: tl.tensor,
    places: tl.tensor,
    weights: tl.tensor,
    shapes: tl.tensor,
    gradient: tl.tensor,
    of_value: tl.tensor,
    of_places: tl.tensor,
    of_weights: tl.tensor,
    queries: tl.tensor,
    length: tl.tensor,
    heads: tl.constexpr,
    width: tl.constexpr,
    maps: tl.constexpr,
    points: tl.constexpr,
    tile: tl.constexpr,
    padded: tl.constexpr,
) -> None:
    rows, there, cells = _tile(queries, length, heads, width, tile)
    channels = tl.arange(0, padded)
    out = (rows * width)[:, None] + channels[None, :]
    due = tl.load(gradient + out, mask=there[:, None] & (channels < width)[None, :], other=0.0)
    for level in range(maps):
        high, long = tl.load(shapes + 2 * level).to(tl.int32), tl.load(shapes + 2 * level + 1).to(tl.int32)
        for point in tl.static_range(points):
            sample = (rows * maps + level) * points + point
            weight = tl.load(weights + sample, mask=there, other=0.0)
            left, beyond_left = _between(places + 2 * sample, long, there)
            top, beyond_top = _between(places + 2 * sample + 1, high, there)
            of_weight = tl.zeros((tile,), tl.float32)
            of_x = tl.zeros((tile,), tl.float32)
            of_y = tl.zeros((tile,), tl.float32)
            for corner in tl.static_range(4):
                right, below = corner % 2, corner // 2
                cell, inside = _cell(left + right, top + below, long, high, there)
                across, down = _share(beyond_left, right), _share(beyond_top, below)
                at = (cells + cell * (heads * width))[:, None] + channels[None, :]
                mask = inside[:, None] & (channels < width)[None, :]
                product = tl.sum(due * tl.load(value + at, mask=mask, other=0.0), 1)
                of_weight += across * down * product
                of_x += (2 * right - 1) * down * product
                of_y += (2 * below - 1) * across * product
                tl.atomic_add(of_value + at, (weight * across * down)[:, None] * due, mask=mask, sem="relaxed")
            tl.store(of_weights + sample, of_weight, mask=there)
            tl.store(of_places + 2 * sample, long * weight * of_x, mask=there)
            tl.store(of_places + 2 * sample + 1, high * weight * of_y, mask=there)
        cells += high.to(tl.int64) * long * (heads * width)


@triton.jit
def _tile(
    queries: tl.tensor, length: tl.tensor, heads: tl.constexpr, width: tl.constexpr, tile: tl.constexpr
) -> tl.tuple:
    """Return the flat (image, query, head) index of each query, a mask of existing queries, and the offset of the head
    in the first map of ``value``. Indices are 64 bit, since they may exceed 32 bit.
    """
    image, head = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    query = tl.program_id(0) * tile + tl.arange(0, tile)
    return (image * queries + query) * heads + head, query < queries, (image * length * heads + head) * width


@triton.jit
def _between(at: tl.tensor, size: tl.tensor, there: tl.tensor) -> tl.tuple:
    """Return the pixel before a sampling point on one axis, and the distance from its centre, 0..1.

    Points far outside the map, and NaN, are clamped to just outside, where the value is zero too: they would not fit
    into 32-bit integers.
    """
    place = 2 * tl.load(at, mask=there, other=0.0) - 1
    pixel = ((place + 1) * size - 1) * 0.5  # as grid_sample computes it, to fall between the same pixels
    pixel = tl.clamp(pixel, -2.0, size + 1.0)
    before = tl.floor(pixel)
    return before.to(tl.int32), pixel - before


@triton.jit
def _cell(x: tl.tensor, y: tl.tensor, long: tl.tensor, high: tl.tensor, there: tl.tensor) -> tl.tuple:
    """Return the 64-bit index of a pixel in its map, and whether it is in the map."""
    return y.to(tl.int64) * long + x, there & (x >= 0) & (x < long) & (y >= 0) & (y < high)


@triton.jit
def _share(beyond: tl.tensor, after: tl.constexpr) -> tl.tensor:
    """Return the bilinear coefficient of the pixel after a sampling point, or of the one before it."""
    return beyond if after else 1 - beyond

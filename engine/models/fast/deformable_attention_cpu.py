"""Deformable attention on a CPU as a product with one sparse matrix, with a row for each query and head.

A sampling point ("place") lies between four pixels ("corners"), so the result of a query is a weighted sum of
4 x maps x K rows of the value, each of ``d`` contiguous numbers; gradients are products with the transposed matrix.
This takes a fifth of the time of ``grid_sample``, which traverses each map once for each of the ``d`` channels.
Interpolation and padding are the same as there (bilinear, zeros, ``align_corners=False``).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class _Side:
    """The corner before, or after, each of N places along one axis.

    Attributes:
        inside: (N,), 1 if the corner is in the map, else 0.
        near: (N,), 1 - distance of the place to it; 0 outside.
    """

    inside: Tensor
    near: Tensor


def _sides(pixels: Tensor, length: Tensor) -> tuple[tuple[_Side, _Side], tuple[Tensor, Tensor]]:
    """Return the corners of places (N,) in pixels, on maps of sizes (N,); pixel centers are whole numbers.

    Also return the indices of these corners, (N,) int32, clamped to the map.
    """
    before = pixels.floor()
    part = pixels - before
    last = length - 1

    def side(at: Tensor, near: Tensor) -> tuple[_Side, Tensor]:
        within = torch.fmin(at.clamp(min=0), last)  # NaN gets an index too: ``near`` is NaN then
        inside = (within == at).to(near.dtype)
        return _Side(inside, near * inside), within.int()

    (lower, at), (higher, after) = side(before, 1 - part), side(before + 1, part)
    return (lower, higher), (at, after)


class _Corners:
    """The four corners of each of N = B Q heads maps K places, in this order, row by row.

    Args:
        places: (B, Q, heads, maps, K, 2) in 0..1.
        shapes: Heights and widths of the maps.
    """

    def __init__(self, places: Tensor, shapes: list[tuple[int, int]]) -> None:
        batch, queries, heads, _, count, _ = places.shape

        def everywhere(of_map: list[int]) -> Tensor:  # expanded: only products of long rows are fast
            return torch.tensor(of_map, dtype=places.dtype).repeat_interleave(count).repeat(batch * queries * heads)

        self.width = everywhere([width for _, width in shapes])
        self.height = everywhere([height for height, _ in shapes])
        self.x, columns = _sides(places[..., 0].flatten() * self.width - 0.5, self.width)
        self.y, lines = _sides(places[..., 1].flatten() * self.height - 0.5, self.height)
        sizes = [height * width for height, width in shapes]
        starts = everywhere([sum(sizes[:level]) for level in range(len(sizes))]).int()
        width = self.width.int()
        at = torch.stack([(starts + line * width) + column for line in lines for column in columns], -1)
        image = torch.arange(batch, dtype=torch.int32)[:, None, None] * sum(sizes)
        head = torch.arange(heads, dtype=torch.int32)
        first = (image * heads + head).expand(-1, queries, -1).reshape(-1, 1)
        self.rows = (at.view(len(first), -1) * heads + first).flatten()
        """(4 N,) int32, of the value (B P heads, d)."""
        each = places[0, 0, 0, ..., 0].numel() * 4
        self.begins = torch.arange(0, len(self.rows) + 1, each, dtype=torch.int32)
        """(B Q heads + 1,) int32, where the corners of each query and head begin."""

    def shares(self, weights: Tensor) -> Tensor:
        """Return the (4 N,) weights of the corners, for weights (N,) of the places."""
        return torch.stack(
            [by_row * x.near for by_row in (weights * y.near for y in self.y) for x in self.x], -1
        ).flatten()


def read(value: Tensor, places: Tensor, weights: Tensor, shapes: list[tuple[int, int]]) -> Tensor:
    """Return the weighted sum of the samples of each query, differentiable in the first three; float32, on a CPU.

    Args:
        value: (B, P, heads, d), the flattened maps, concatenated.
        places: (B, Q, heads, maps, K, 2) as x, y; 0..1 is the map.
        weights: (B, Q, heads, maps, K).
        shapes: Height and width of each map.

    Returns:
        (B, Q, heads d).
    """
    result: Tensor = _Read.apply(value, places, weights, shapes)
    return result


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, places: Tensor, weights: Tensor, shapes: list[tuple[int, int]]) -> Tensor:
        ctx.save_for_backward(value, places, weights)
        ctx.shapes = shapes
        corners = _Corners(places, shapes)
        taken = functional.embedding_bag(
            corners.rows,
            value.reshape(-1, value.shape[-1]),
            corners.begins[:-1],
            mode="sum",
            per_sample_weights=corners.shares(weights.flatten()),
        )
        return taken.view(*places.shape[:2], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        value, places, weights = ctx.saved_tensors
        corners, weight = _Corners(places, ctx.shapes), weights.flatten()
        due, rows = gradients[0].reshape(-1, value.shape[-1]), value.reshape(-1, value.shape[-1])
        matrix = (corners.shares(weight), corners.rows, corners.begins)
        of_value = _turned(matrix, due, len(rows)).view_as(value)
        upper_left, upper_right, lower_left, lower_right = _met(matrix, due, rows).view(-1, 4).T.contiguous()
        (left, right), (above, below) = corners.x, corners.y
        upper = upper_left * left.near + upper_right * right.near
        lower = lower_left * left.near + lower_right * right.near
        of_y = (lower * below.inside - upper * above.inside) * weight * corners.height
        on_left = upper_left * above.near + lower_left * below.near
        on_right = upper_right * above.near + lower_right * below.near
        of_x = (on_right * right.inside - on_left * left.inside) * weight * corners.width
        of_weights = upper * above.near + lower * below.near
        return of_value, torch.stack((of_x, of_y), -1).view_as(places), of_weights.view_as(weights), None


def _turned(matrix: tuple[Tensor, Tensor, Tensor], due: Tensor, height: int) -> Tensor:
    """Multiply the transpose of a sparse matrix (values, columns, row starts) by ``due`` (B Q heads, d)."""
    parts = tuple(part.numpy() for part in matrix)
    turned = sparse.csr_matrix(parts, shape=(len(due), height), copy=False).T
    return torch.from_numpy(turned @ due.contiguous().numpy())


def _met(matrix: tuple[Tensor, Tensor, Tensor], due: Tensor, rows: Tensor) -> Tensor:
    """Return (4 N,): for each entry of the matrix, the product of its row of ``due`` and its row of ``rows``."""
    values, columns, begins = matrix
    if len(columns) > len(due) * len(rows):  # more entries than a sparse matrix may have: tiny maps
        return (due @ rows.T).gather(1, columns.view(len(due), -1).long()).flatten()
    _warn_once()
    wanted: Any = torch.sparse_csr_tensor(begins, columns, values, (len(due), len(rows)), check_invariants=False)
    found: Tensor = torch.sparse.sampled_addmm(wanted, due, rows.T, beta=0.0).values()
    return found


@cache
def _warn_once() -> None:
    """Suppress torch's warning that CSR tensors are in beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 1), check_invariants=False)

"""Deformable attention on a CPU: as a product with one sparse matrix, of which each row is one query of one head.

A place lies between four corners, so that what a query takes of all maps is a sum of 4 maps K rows of the value, each
of ``d`` numbers side by side; gradients are products with the same matrix, the other way round. That takes a fifth of
the time of ``grid_sample``, which goes through each map once for every one of the ``d`` numbers. Places, corners and
what lies outside are the same as there (bilinear, zeros, ``align_corners=False``).
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
    """Of all N places, along one axis: the corner before or the one after.

    Attributes:
        inside: (N,), 1 where it is in the map, else 0.
        near: (N,), how near the place is to it; 0 outside.
    """

    inside: Tensor
    near: Tensor


def _sides(pixels: Tensor, length: Tensor) -> tuple[tuple[_Side, _Side], tuple[Tensor, Tensor]]:
    """Of places (N,) in pixels, on maps that are (N,) long; pixel centers are whole numbers.

    And where these corners are, (N,) int32: in the map, if need be at its edge.
    """
    before = pixels.floor()
    part = pixels - before
    last = length - 1

    def side(at: Tensor, near: Tensor) -> tuple[_Side, Tensor]:
        within = torch.fmin(at.clamp(min=0), last)  # what is no number is somewhere too: ``near`` tells of it
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

        def everywhere(of_map: list[int]) -> Tensor:  # in full: products of long rows alone are fast
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
        """(4 N,): what of each corner is taken, by weights (N,)."""
        return torch.stack(
            [by_row * x.near for by_row in (weights * y.near for y in self.y) for x in self.x], -1
        ).flatten()


def read(value: Tensor, places: Tensor, weights: Tensor, shapes: list[tuple[int, int]]) -> Tensor:
    """What each query reads of all maps, by weight, with gradients of the first three. All are float32, on a CPU.

    Args:
        value: (B, P, heads, d), the maps one after the other, row by row.
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
    """(height, d): a sparse matrix, given as values, columns and begins, the other way round, times (B Q heads, d)."""
    parts = tuple(part.numpy() for part in matrix)
    turned = sparse.csr_matrix(parts, shape=(len(due), height), copy=False).T
    return torch.from_numpy(turned @ due.contiguous().numpy())


def _met(matrix: tuple[Tensor, Tensor, Tensor], due: Tensor, rows: Tensor) -> Tensor:
    """(4 N,): of each of the matrix's values, the product of its row of ``due`` with its row of ``rows``."""
    values, columns, begins = matrix
    if len(columns) > len(due) * len(rows):  # more than a sparse matrix may have, of maps with hardly a place
        return (due @ rows.T).gather(1, columns.view(len(due), -1).long()).flatten()
    _warn_once()
    wanted: Any = torch.sparse_csr_tensor(begins, columns, values, (len(due), len(rows)), check_invariants=False)
    found: Tensor = torch.sparse.sampled_addmm(wanted, due, rows.T, beta=0.0).values()
    return found


@cache
def _warn_once() -> None:
    """Torch calls sparse tensors of this kind a beta, once a process, since 2021."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 1), check_invariants=False)

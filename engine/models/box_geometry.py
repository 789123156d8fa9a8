"""IoU of boxes as tensors, and the optimal assignment of queries to objects."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def intersection_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the areas of intersection and union of boxes, elementwise.

    Args:
        a: (..., 4) corners, left, top, right, bottom.
        b: The same, of a shape that can be broadcast with that of ``a``.
    """
    inner = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    return inner, (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - inner


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the elementwise IoU of boxes, 0..1; arguments as for :func:`intersection_and_union`."""
    inner, union = intersection_and_union(a, b)
    return inner / union.clamp(min=torch.finfo(union.dtype).tiny)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the elementwise generalized IoU (arXiv:1902.09630) of boxes, -1..1; arguments as for :func:`iou`."""
    inner, union = intersection_and_union(a, b)
    outer = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    tiny = torch.finfo(union.dtype).tiny
    return inner / union.clamp(min=tiny) - (outer - union) / outer.clamp(min=tiny)


def to_corners(boxes: Tensor) -> Tensor:
    """Convert (..., 4) center x, center y, width, height to left, top, right, bottom."""
    center, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([center - half, center + half], dim=-1)


def clipped_corners(boxes: Tensor) -> Tensor:
    """Convert (..., 4) center x, center y, width, height, as shares of the image, to corners inside it."""
    return to_corners(boxes).clamp(0, 1)


def share_inside(boxes: Tensor, regions: Tensor) -> Tensor:
    """Return (Q, M) the share of the area of each box (Q, 4) inside each region (M, 4), both center and size."""
    inner, _ = intersection_and_union(to_corners(boxes)[:, None], to_corners(regions)[None])
    return inner / boxes[:, None, 2:].prod(-1).clamp(min=1e-12)


def assign(costs: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Assign to each object the query of lowest cost, each query at most once (Hungarian method).

    Args:
        costs: (Q, N) of each image with N objects, on one device. Values may be infinite or NaN: diverged predictions
            must reach the check of the loss, not fail here.

    Returns:
        For each image the indices of queries and of the objects assigned to them, each (min(N, Q),) int64 on the CPU.
    """
    host = torch.nan_to_num(torch.cat([c.flatten() for c in costs]), nan=1e6, posinf=1e6, neginf=-1e6).cpu()
    parts = torch.split_with_sizes(host, [c.numel() for c in costs])  # one copy to the host for all
    pairs = [linear_sum_assignment(part.view(cost.shape)) for part, cost in zip(parts, costs, strict=True)]
    return [(torch.as_tensor(query), torch.as_tensor(found)) for query, found in pairs]

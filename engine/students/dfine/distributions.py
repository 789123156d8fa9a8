"""Distributions of box edges over bins: fine-grained distribution refinement of D-FINE (arXiv:2410.13842, section 4.1).

An edge of a box is the edge of an initial box, moved by the expectation of W(n) over N + 1 bins, in units of the size
of the initial box over ``scale``. Bins are narrow in the middle, for fine corrections, and wide at both ends.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def bin_offsets(bins: int, *, bound: float, scale: float) -> Tensor:
    """Return the non-uniform weighting function W(n) of equation 3, (bins + 1,) float32, ascending.

    Args:
        bins: N, even.
        bound: The upper bound a; the last but one offset is a times the scale.
        scale: Curvature; the published ``reg_scale``.
    """
    largest = abs(bound * scale)
    growth = (largest + 1) ** (2 / (bins - 2))
    inner = [growth**n - 1 for n in range(1, bins // 2)]
    half = [*inner, 2 * largest]
    return torch.tensor([*(-one for one in reversed(half)), 0.0, *half], dtype=torch.float32)


def edge_targets(initial: Tensor, corners: Tensor, offsets: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
    """Return the position of true edges among the bins.

    Args:
        initial: (N, 4) initial boxes: center x, center y, width, height.
        corners: (N, 4) true boxes: left, top, right, bottom.
        offsets: (bins + 1,) of :func:`bin_offsets`.
        scale: As for :func:`bin_offsets`.

    Returns:
        The bin left of each edge, (N, 4) int64, and the share of the bin right of it, (N, 4) in 0..1. Edges beyond the
        outermost bins belong to these.
    """
    center, size = initial[:, :2], initial[:, 2:]
    distance = torch.cat([center - corners[:, :2], corners[:, 2:] - center], dim=-1)
    wanted = distance / (size.repeat(1, 2) / scale + 1e-16) - 0.5 * scale
    left = (torch.searchsorted(offsets, wanted.contiguous(), right=True) - 1).clamp(0, len(offsets) - 2)
    share = (wanted - offsets[left]) / (offsets[left + 1] - offsets[left])
    return left, share.clamp(0, 1)


def fine_grained_localization(logits: Tensor, left: Tensor, share: Tensor) -> Tensor:
    """Return the FGL loss of each edge (equation 6) without its weight, (N, 4).

    Args:
        logits: (N, 4, bins + 1) of the distributions.
        left: Bins left of the true edges, see :func:`edge_targets`.
        share: Shares of the bins right of them.
    """
    log = F.log_softmax(logits, dim=-1)
    pair = log.gather(-1, torch.stack([left, left + 1], dim=-1))
    return -(pair[..., 0] * (1 - share) + pair[..., 1] * share)


TEMPERATURE = 5.0
"""Temperature of the self-distillation, as in the authors' code."""


def self_distillation(logits: Tensor, final: Tensor) -> Tensor:
    """Return T^2 times the divergence of each edge's distribution from that of the last layer (equation 8), (..., 4).

    Args:
        logits: (..., 4, bins + 1) of a layer.
        final: The same of the last layer; it gets no gradient.
    """
    wanted = F.log_softmax(final.detach() / TEMPERATURE, dim=-1)
    found = F.log_softmax(logits / TEMPERATURE, dim=-1)
    return TEMPERATURE**2 * (wanted.exp() * (wanted - found)).sum(-1)

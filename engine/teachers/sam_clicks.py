"""Correction clicks: where an answer of SAM is wrong, as a user would show it (arXiv:2304.02643, appendix A).

All chance comes in as one number a click, drawn with the example. A cell that changes sides, by rounding or by another
cut of the batch, changes the click only if it is the one that was chosen or would be: cells are ranked by a fixed
permutation that the number turns, and of the wrong ones the first is clicked.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class Clicks(NamedTuple):
    """Points with their meaning.

    Attributes:
        points: (P, K, 2) float32, column and row in pixels of the model's input, as SAM takes them.
        labels: (P, K) int64, 1 on the object and 0 beside it.
    """

    points: Tensor
    labels: Tensor

    @classmethod
    def on_objects(cls, points: Tensor) -> Clicks:
        """One on each object: (P, 2) points."""
        return cls(points[:, None], torch.ones(len(points), 1, dtype=torch.long, device=points.device))

    def then(self, later: Clicks) -> Clicks:
        """These clicks, and one more for each prompt."""
        return Clicks(torch.cat([self.points, later.points], 1), torch.cat([self.labels, later.labels], 1))


def true_cells(targets: Tensor) -> Tensor:
    """Cells of the true mask, those at least half covered; of an object that covers none by half, its fullest ones.

    Args:
        targets: (..., h, w) in 0..1.

    Returns:
        (..., h, w) bool, never empty.
    """
    return targets >= targets.amax(dim=(-2, -1), keepdim=True).clamp(max=0.5)


@torch.no_grad()
def correct(logits: Tensor, targets: Tensor, chances: Tensor, *, extents: Tensor, stride: float) -> Clicks:
    """A click for each answer, on any wrong cell as likely as on any other; on the object where nothing is wrong.

    What lies beside the image, where nobody can click, is not wrong.

    Args:
        logits: (P, h, w); the answer is where they are above 0.
        targets: (P, h, w) in 0..1.
        chances: (P,) in 0..1.
        extents: (P, 2) rows and columns that the image covers.
        stride: Pixels of the model's input a cell.

    Returns:
        One click each.
    """
    true = true_cells(targets).flatten(1)
    height, width = logits.shape[-2:]
    rows = torch.arange(height, device=logits.device)[:, None] < extents[:, :1, None]
    columns = torch.arange(width, device=logits.device) < extents[:, 1:, None]
    wrong = ((logits > 0).flatten(1) != true) & (rows & columns).flatten(1)
    region = torch.where(wrong.any(1, keepdim=True), wrong, true)
    count = region.shape[1]
    turn = (chances * count).long().clamp(max=count - 1)[:, None]
    order = (_permutation(count).to(logits.device) + turn) % count
    chosen = order.masked_fill(~region, count).argmin(1, keepdim=True)
    # SAM adds the half pixel that leads to a pixel's middle.
    middle = (torch.stack([chosen % width, chosen // width], -1) + 0.5) * stride - 0.5
    return Clicks(middle.float(), true.gather(1, chosen).long())


@lru_cache(maxsize=2)
def _permutation(count: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))

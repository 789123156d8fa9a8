"""Correction clicks on wrong areas of SAM's masks, as a user would set them (arXiv:2304.02643, appendix A).

All randomness is one number per click, drawn with the example. A cell that changes between right and wrong, by rounding
or another division of the batch, changes the click only if it is, or becomes, the chosen one: cells are ranked by a
fixed permutation, rotated by that number, and the first wrong one is clicked.
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
        labels: (P, K) int64, 1 on the object and 0 on the background.
    """

    points: Tensor
    labels: Tensor

    @classmethod
    def on_objects(cls, points: Tensor) -> Clicks:
        """Return one click on each object, from (P, 2) points."""
        return cls(points[:, None], torch.ones(len(points), 1, dtype=torch.long, device=points.device))

    def then(self, later: Clicks) -> Clicks:
        """Append one more click for each prompt."""
        return Clicks(torch.cat([self.points, later.points], 1), torch.cat([self.labels, later.labels], 1))


def true_cells(targets: Tensor) -> Tensor:
    """Return the cells of the true mask: those at least half covered, or else the most covered ones.

    Args:
        targets: (..., h, w) in 0..1.

    Returns:
        (..., h, w) bool, never empty.
    """
    return targets >= targets.amax(dim=(-2, -1), keepdim=True).clamp(max=0.5)


@torch.no_grad()
def correct(logits: Tensor, targets: Tensor, chances: Tensor, *, extents: Tensor, stride: float) -> Clicks:
    """Choose a click for each mask, uniformly among wrong cells, or among the object's cells if none is wrong.

    Cells in the padding, where nobody can click, are not wrong.

    Args:
        logits: (P, h, w); the mask is where they are above 0.
        targets: (P, h, w) in 0..1.
        chances: (P,) in 0..1.
        extents: (P, 2) rows and columns that the image covers.
        stride: Pixels of the model's input per cell.

    Returns:
        One click per mask.
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
    # SAM adds half a pixel to get the pixel's centre.
    middle = (torch.stack([chosen % width, chosen // width], -1) + 0.5) * stride - 0.5
    return Clicks(middle.float(), true.gather(1, chosen).long())


@lru_cache(maxsize=2)
def _permutation(count: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))

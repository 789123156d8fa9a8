"""Losses and matching costs of masks, as in D-FINE-seg (arXiv:2602.23043), on the cells of a coarse grid.

Binary cross-entropy and Dice are computed inside the box of the object, so what a mask has outside of its box does not
matter, and is cut off in predictions. In the matching, Dice and focal cost are over the whole image.

The authors count a cell as inside a box by its corner, and divide the cross-entropy by the area of the box; here a
cell is inside if it overlaps the box, and ignored cells do not count. Losses are sums over objects, not means over the
matches of a batch, so that they do not depend on how the images of a step are divided.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.models.box_geometry import to_corners
from engine.students.mask_terms import MASK_TERMS, bce_and_dice, dice_costs
from engine.students.matching import FOCAL_ALPHA, FOCAL_GAMMA, Matches

TINY = 1e-6

Logits = Callable[[int, Tensor], Tensor]
"""Returns the mask logits (K, h, w) of the queries at (K,) indices in one image, given its index."""


@torch.no_grad()
def mask_costs(logits: Tensor, masks: Tensor) -> Tensor:
    """Return (Q, N) the Dice cost plus the focal cost of each query for each object.

    Args:
        logits: (Q, h, w) of the queries.
        masks: (N, h, w) shares of cells inside each object; negative cells are ignored.
    """
    known = (masks >= 0).flatten(1).float()  # (N, h * w)
    inside = masks.clamp(min=0).flatten(1)
    seen = logits.flatten(1)
    chance = seen.sigmoid()
    dice = dice_costs(chance, inside, known, smooth=TINY)
    positive = FOCAL_ALPHA * (1 - chance) ** FOCAL_GAMMA * F.softplus(-seen)
    negative = (1 - FOCAL_ALPHA) * chance**FOCAL_GAMMA * F.softplus(seen)
    focal = (positive @ inside.T + negative @ (known - inside).clamp(min=0).T) / seen.shape[1]
    return (dice + focal) * known.any(-1)


def mask_losses(
    logits: Logits, matches: Matches, masks: Sequence[Tensor], boxes: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Return the terms of one layer by :data:`MASK_TERMS`, summed over matches.

    Args:
        logits: Mask logits of matched queries.
        matches: Queries and objects of each image.
        masks: (N, h, w) of each image, shares of cells inside each object; negative cells are ignored.
        boxes: (N, 4) of each image: center x, center y, width, height, as shares of the image.
    """
    sums: dict[str, list[Tensor]] = {term: [] for term in MASK_TERMS}
    for image, (query, found) in enumerate(matches):
        wanted = masks[image][found.to(masks[image].device)]
        counted = (wanted >= 0) & _in_boxes(boxes[image][found.to(boxes[image].device)], wanted.shape[1:])
        some = counted.flatten(1).any(-1)
        if not some.any():
            continue
        seen = logits(image, query.to(wanted.device)[some])
        parts = (seen, wanted[some].clamp(min=0), counted[some].to(seen.dtype))
        bce, dice = bce_and_dice(*(one.flatten(1) for one in parts), smooth=TINY)
        sums["mask_bce"].append(bce.sum())
        sums["mask_dice"].append(dice.sum())
    return {term: torch.stack(values).sum() if values else torch.zeros(()) for term, values in sums.items()}


def _in_boxes(boxes: Tensor, grid: Sequence[int]) -> Tensor:
    """Return (N, h, w) bool: whether a cell overlaps each box (N, 4)."""
    rows, columns = (torch.arange(cells, device=boxes.device) for cells in grid)
    left, top, right, bottom = (to_corners(boxes) * boxes.new_tensor([grid[1], grid[0]] * 2)).unbind(-1)
    across = (columns + 1 > left[:, None]) & (columns < right[:, None])
    down = (rows + 1 > top[:, None]) & (rows < bottom[:, None])
    return down[:, :, None] & across[:, None, :]

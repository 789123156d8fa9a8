"""Losses and matching costs of masks as in RF-DETR-Seg (roboflow/rf-detr), at points and not at all cells.

A mask is learned at points of the image (PointRend, arXiv:1912.08193): three quarters are those of many random ones
where it is least sure, the others are random. The costs of a layer share random points. Cross-entropy and Dice are
over the whole image, not only inside the box.

The target of a point is the share of its cell inside the object, where the authors take the pixel: on average over the
points of a cell that is the same. Points on ignored cells do not count, and are chosen last.

The library counts the points of the costs by the numbers of queries and coordinates instead of by the size of the mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.students.mask_terms import MASK_TERMS, bce_and_dice, dice_costs
from engine.students.matching import Matches
from engine.students.rf_detr.layer_masks import LayerMasks, cells_at, values_at

SAMPLE_RATIO = 16
"""Cells of a mask for each point."""

OVERSAMPLED, UNSURE_SHARE = 3, 0.75
SMOOTH = 1.0


@torch.no_grad()
def mask_costs(
    masks: LayerMasks, layer: int, wanted: Sequence[Tensor], *, weights: tuple[float, float]
) -> list[Tensor]:
    """Return for each image the costs (Q, N) of each query for each object, 0 for objects without a mask.

    Args:
        masks: Predicted masks.
        layer: Index of the layer.
        wanted: (N, h, w) of each image, shares of cells inside each object; negative cells are ignored.
        weights: Weights of cross-entropy and Dice.
    """
    rows, columns = masks.grid
    points = torch.rand(max(1, rows * columns // SAMPLE_RATIO), 2, device=masks.embedded.device)
    return [
        pair_costs(masks.logits_at(layer, image, points), one.flatten(1)[:, cells_at(points, masks.grid)], weights)
        for image, one in enumerate(wanted)
    ]


def pair_costs(logits: Tensor, wanted: Tensor, weights: tuple[float, float]) -> Tensor:
    """Return the costs (Q, N) of logits (Q, P) for objects (N, P) at the same points; see :func:`mask_costs`."""
    known, inside = (wanted >= 0).float(), wanted.clamp(min=0)
    bce = F.softplus(-logits) @ inside.T + F.softplus(logits) @ (known - inside).clamp(min=0).T
    number = known.sum(-1)
    dice = dice_costs(logits.sigmoid(), inside, known, smooth=SMOOTH)
    return (weights[0] * bce / number.clamp(min=1) + weights[1] * dice) * (number > 0)


def mask_losses(masks: LayerMasks, layer: int, matches: Matches, wanted: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the terms of one layer by :data:`engine.students.mask_terms.MASK_TERMS`, summed over matches.

    Args:
        masks: Predicted masks.
        layer: Index of the layer.
        matches: Queries and objects of each image.
        wanted: See :func:`mask_costs`.
    """
    seen, chosen, first = [], [], 0
    for image, ((query, found), one) in enumerate(zip(matches, wanted, strict=True)):
        query, found = query.to(one.device), found.to(one.device)
        learned = (one >= 0).flatten(1).any(-1)[found]
        seen.append(masks.logits(layer, image, query[learned]))
        chosen.append(found[learned] + first)
        first += len(one)
    logits = torch.cat(seen)
    if not len(logits):
        return dict.fromkeys(MASK_TERMS, logits.sum())
    targets_at = partial(_targets_at, torch.cat(list(wanted)), torch.cat(chosen))
    points = unsure_points(logits.detach(), targets_at)
    targets = targets_at(points)
    values = values_at(logits[:, None], points)[:, 0]
    terms = bce_and_dice(values, targets.clamp(min=0), (targets >= 0).to(values.dtype), smooth=SMOOTH)
    return dict(zip(MASK_TERMS, (one.sum() for one in terms), strict=True))


def unsure_points(logits: Tensor, targets_at: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the points (K, P, 2) at which masks (K, h, w) are learned.

    Args:
        logits: The masks, without gradient.
        targets_at: Returns the targets (K, P) at points (K, P, 2).
    """
    count, rows, columns = logits.shape
    number = max(rows, rows * columns // SAMPLE_RATIO)
    candidates = torch.rand(count, OVERSAMPLED * number, 2, device=logits.device)
    doubt = -values_at(logits[:, None], candidates)[:, 0].abs()
    doubt = doubt.masked_fill(targets_at(candidates) < 0, -torch.inf)
    unsure = int(UNSURE_SHARE * number)
    best = doubt.topk(unsure, dim=1).indices[..., None].expand(-1, -1, 2)
    others = torch.rand(count, number - unsure, 2, device=logits.device)
    return torch.cat([candidates.gather(1, best), others], dim=1)


def _targets_at(masks: Tensor, chosen: Tensor, points: Tensor) -> Tensor:
    """Return the values (K, P) of some masks (K,) of (N, h, w) at points (K, P, 2)."""
    rows, columns = masks.shape[1:]
    return masks.flatten(1)[chosen[:, None], cells_at(points, (rows, columns))]

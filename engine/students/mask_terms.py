"""Terms of masks that students share: cross-entropy and Dice on cells or points, some of which are ignored."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

MASK_TERMS = ("mask_bce", "mask_dice")
"""Names of the terms of the loss, and with ``_weight`` of their weights in the settings."""


def bce_and_dice(logits: Tensor, wanted: Tensor, counted: Tensor, *, smooth: float) -> tuple[Tensor, Tensor]:
    """Return the mean cross-entropy (K,) and the Dice loss (K,) of masks over their counted values.

    Args:
        logits: (K, P) of cells or points.
        wanted: (K, P) in 0..1, shares inside the objects.
        counted: (K, P) float, 1 for values that count and 0 for the others.
        smooth: Added to numerator and denominator of Dice.
    """
    bce = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * counted
    chance, inside = logits.sigmoid() * counted, wanted * counted
    shared, area = (chance * inside).sum(1), chance.sum(1) + inside.sum(1)
    return bce.sum(1) / counted.sum(1).clamp(min=1), 1 - (2 * shared + smooth) / (area + smooth)


def dice_costs(chance: Tensor, inside: Tensor, known: Tensor, *, smooth: float) -> Tensor:
    """Return the Dice loss (Q, N) of each query for each object.

    Args:
        chance: (Q, P) predicted probabilities.
        inside: (N, P) shares inside the objects, 0 where unknown.
        known: (N, P) float, 1 for values that count and 0 for the others.
        smooth: Added to numerator and denominator.
    """
    shared, area = chance @ inside.T, chance @ known.T + inside.sum(-1)
    return 1 - (2 * shared + smooth) / (area + smooth)

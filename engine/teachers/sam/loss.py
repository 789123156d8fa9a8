"""SAM's objective (arXiv:2304.02643, section 3 and appendix A): 20 focal + dice, and squared error of predicted IoU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.teachers.sam.settings import SamSettings

FOCAL_ALPHA = 0.5
"""Weight of an object's pixels. With the 0.25 of SAM 2's code, a cell that is half covered is best called background:
masks shrink by a part of a cell, which costs AP where objects are a few cells wide."""


def focal_loss(logits: Tensor, targets: Tensor, *, alpha: float = FOCAL_ALPHA, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss (arXiv:1708.02002), averaged over the pixels of each mask.

    Args:
        logits: (P, M, h, w).
        targets: (P, 1, h, w) in 0..1. Between 0 and 1 each term is the mean of both cases, weighted by the target.
        alpha: Weight of the object's pixels; those of the background weigh 1 - alpha.
        gamma: Exponent that reduces the weight of well-classified pixels.

    Returns:
        (P, M).
    """
    probability = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets.expand_as(logits), reduction="none")
    miss = probability + targets - 2 * probability * targets  # 1 - p_t
    weight = 1 - alpha + (2 * alpha - 1) * targets
    return (weight * cross_entropy * miss**gamma).mean(dim=(-2, -1))


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Dice loss, 1 - dice coefficient, of each mask (arXiv:1606.04797), smoothed as in SAM 2's ``loss_fns.py``.

    Args:
        logits: (P, M, h, w).
        targets: (P, 1, h, w) in 0..1.

    Returns:
        (P, M).
    """
    probability = logits.sigmoid()
    overlap = (probability * targets).sum(dim=(-2, -1))
    total = probability.sum(dim=(-2, -1)) + targets.sum(dim=(-2, -1))
    return 1 - (2 * overlap + 1) / (total + 1)


def true_cells(targets: Tensor) -> Tensor:
    """Return the cells of the true mask: those at least half covered, or else the most covered ones.

    Args:
        targets: (..., h, w) in 0..1.

    Returns:
        (..., h, w) bool, never empty.
    """
    return targets >= targets.amax(dim=(-2, -1), keepdim=True).clamp(max=0.5)


@torch.no_grad()
def mask_iou(logits: Tensor, targets: Tensor) -> Tensor:
    """IoU of the predicted mask (logits above 0) and the true one (cells at least half covered).

    The true mask is never empty: see :func:`true_cells`.

    Args:
        logits: (P, M, h, w).
        targets: (P, 1, h, w) in 0..1.

    Returns:
        (P, M) in 0..1.
    """
    predicted = logits > 0
    true = true_cells(targets)
    overlap = (predicted & true).sum(dim=(-2, -1))
    return overlap / (predicted | true).sum(dim=(-2, -1))


def sam_losses(logits: Tensor, ious: Tensor, targets: Tensor, settings: SamSettings) -> dict[str, Tensor]:
    """Sum all parts of the objective over the prompts, in 32 bit.

    Of several masks for one prompt only the one with the lowest mask loss counts, so that each can represent another
    meaning of the prompt. The IoU loss is over all of them, as predicted IoUs select among the masks later.

    Args:
        logits: (P, M, h, w), M masks for each of P prompts.
        ious: (P, M), IoU predicted for each mask.
        targets: (P, h, w) in 0..1.
        settings: Weights of the parts.

    Returns:
        Scalars: ``loss``, the weighted total, and its unweighted parts ``focal``, ``dice`` and ``iou``, detached.
    """
    logits, ious, targets = logits.float(), ious.float(), targets.float().unsqueeze(1)
    focal, dice = focal_loss(logits, targets), dice_loss(logits, targets)
    mask_loss = settings.focal_weight * focal + settings.dice_weight * dice  # (P, M)
    best = mask_loss.detach().argmin(dim=1, keepdim=True)
    iou = (ious - mask_iou(logits, targets)).abs().pow(settings.IOU_POWER).mean(dim=1)
    return {
        "loss": mask_loss.gather(1, best).sum() + settings.iou_weight * iou.sum(),
        "focal": focal.detach().gather(1, best).sum(),
        "dice": dice.detach().gather(1, best).sum(),
        "iou": iou.detach().sum(),
    }

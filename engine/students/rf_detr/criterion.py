"""RF-DETR's training objective (arXiv:2511.09554), which is that of LW-DETR (arXiv:2406.03459).

At the encoder's proposals and every decoder layer: IoU-aware cross-entropy over classes, L1 and generalized IoU on
boxes, and with masks those of :mod:`engine.students.rf_detr.mask_losses`. Queries are divided into groups (Group DETR,
arXiv:2207.13085), and each group is matched on its own.

The library's loss takes the logarithm of probabilities, which is infinite for confident queries; here, as in the
authors' code, it is computed from logits. Losses are sums divided by a given count of objects and by the number of
groups. All of it is 32 bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.models.box_geometry import generalized_iou, iou, to_corners
from engine.students.mask_terms import MASK_TERMS
from engine.students.matching import Matches, match_layers
from engine.students.rf_detr.layer_masks import LayerMasks
from engine.students.rf_detr.mask_losses import mask_costs, mask_losses
from engine.students.targets import Targets, ignored

ALPHA, GAMMA = 0.25, 2.0
LOWEST_QUALITY = 0.01

TERMS = ("ce", "l1", "giou")


@dataclass(frozen=True)
class Masks:
    """Predicted masks of all layers, and the weights of cross-entropy and Dice in the matching costs."""

    layers: LayerMasks
    weights: tuple[float, float]


def detection_losses(
    logits: Tensor,
    boxes: Tensor,
    targets: Sequence[Targets],
    *,
    groups: int,
    count: float,
    masks: Masks | None = None,
) -> dict[str, Tensor]:
    """Match queries to objects and return the sum of each term over layers, images and objects, by :data:`TERMS`.

    Args:
        logits: (L, B, G * Q, C) of the proposals and the decoder layers, group by group.
        boxes: (L, B, G * Q, 4) center x, center y, width, height, as shares of the image.
        targets: Objects of each image.
        groups: Number of groups of queries.
        count: Objects that the losses are averaged over.
        masks: Predicted masks, which add :data:`engine.students.mask_terms.MASK_TERMS`; all targets have masks then.
    """
    wanted = [one.masks for one in targets if one.masks is not None] if masks is not None else []
    layers, queries = len(logits), logits.shape[2] // groups
    logits, boxes = _by_group(logits, groups), _by_group(boxes, groups)
    costs = [] if masks is None else [mask_costs(masks.layers, i, wanted, weights=masks.weights) for i in range(layers)]

    def extra(layer: int, image: int) -> Tensor | None:
        found, group = divmod(layer, groups)
        return costs[found][image][group * queries :][:queries] if costs else None

    matches = match_layers(
        logits.detach(),
        boxes.detach(),
        labels=[one.labels for one in targets],
        objects=[one.boxes for one in targets],
        extra=extra,
    )
    parts = [_losses(*layer, targets) for layer in zip(logits, boxes, matches, strict=True)]
    sums = {term: torch.stack([part[term] for part in parts]).sum() for term in TERMS}
    if masks is not None:
        found = [_joined(matches[i * groups :][:groups], queries) for i in range(layers)]
        masked = [mask_losses(masks.layers, i, one, wanted) for i, one in enumerate(found)]
        sums |= {term: torch.stack([part[term] for part in masked]).sum() for term in MASK_TERMS}
    return {term: value / (groups * count) for term, value in sums.items()}


def _joined(groups: Sequence[Matches], queries: int) -> Matches:
    """Return the matches of all groups of a layer, by the indices of queries over all groups."""
    return [
        (
            torch.cat([query + index * queries for index, (query, _) in enumerate(image)]),
            torch.cat([found for _, found in image]),
        )
        for image in zip(*groups, strict=True)
    ]


def _by_group(values: Tensor, groups: int) -> Tensor:
    """Return (L * G, B, Q, ...) of (L, B, G * Q, ...)."""
    layers, images, queries, size = values.shape
    grouped = values.reshape(layers, images, groups, queries // groups, size)
    return grouped.transpose(1, 2).flatten(0, 1)


def _losses(logits: Tensor, boxes: Tensor, matches: Matches, targets: Sequence[Targets]) -> dict[str, Tensor]:
    """Return the terms of one layer and group, summed."""
    device = logits.device
    image = torch.cat([torch.full_like(query, index) for index, (query, _) in enumerate(matches)]).to(device)
    query = torch.cat([query for query, _ in matches]).to(device)
    pairs = [(one, found.to(device)) for one, (_, found) in zip(targets, matches, strict=True)]
    labels, wanted, scores = (
        torch.cat([getattr(one, name)[found] for one, found in pairs]) for name in ("labels", "boxes", "scores")
    )
    seen = boxes[image, query]
    giou = generalized_iou(to_corners(seen), to_corners(wanted))
    overlap = iou(to_corners(seen.detach()), to_corners(wanted)).clamp(0, 1)
    return {
        "ce": _class_loss(logits, boxes, (image, query, labels), overlap, scores, targets),
        "l1": (seen - wanted).abs().sum(),
        "giou": (1 - giou).sum(),
    }


def _class_loss(
    logits: Tensor,
    boxes: Tensor,
    place: tuple[Tensor, Tensor, Tensor],
    overlap: Tensor,
    scores: Tensor,
    targets: Sequence[Targets],
) -> Tensor:
    """Return the IoU-aware cross-entropy (LW-DETR, section 3.2), summed.

    The target of a matched query mixes its own confidence and its IoU with the object; the score of an unsure label
    lowers it. Unmatched queries on an ignored region have no loss for the class of the region.
    """
    chance = logits.sigmoid()
    quality = (chance[place].detach() ** ALPHA * overlap ** (1 - ALPHA)).clamp(min=LOWEST_QUALITY) * scores
    matched = torch.zeros_like(logits, dtype=torch.bool)
    matched[place] = True
    positive = torch.zeros_like(logits).index_put(place, quality)
    background = chance**GAMMA * ~ignored(boxes.detach(), targets, logits.shape[-1])
    negative = torch.where(matched, 1 - positive, background)
    return -(positive * F.logsigmoid(logits) + negative * F.logsigmoid(-logits)).sum()

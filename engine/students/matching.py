"""Match queries to objects by the costs of DETR with focal loss, each layer on its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.models.box_geometry import assign, generalized_iou, to_corners

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
CLASS_COST, L1_COST, GIOU_COST = 2.0, 5.0, 2.0  # as published for D-FINE, RF-DETR and LW-DETR

Matches = list[tuple[Tensor, Tensor]]
"""For each image, indices of queries and of the objects that they are matched to, (K,) int64 on the CPU."""


@torch.no_grad()
def match_layers(
    logits: Tensor,
    boxes: Tensor,
    *,
    labels: Sequence[Tensor],
    objects: Sequence[Tensor],
    extra: Callable[[int, int], Tensor | None] = lambda layer, image: None,
) -> list[Matches]:
    """Assign to each object the query of lowest cost in each layer, each query at most once.

    Args:
        logits: (L, B, Q, C) of L layers for B images.
        boxes: (L, B, Q, 4) center x, center y, width, height, as shares of the image.
        labels: (N,) class indices of the objects of each image.
        objects: (N, 4) their boxes, like ``boxes``.
        extra: Returns further costs (Q, N) of a layer and an image, if there are any.

    Returns:
        The matches of each layer.
    """
    positive = FOCAL_ALPHA * (1 - logits.sigmoid()) ** FOCAL_GAMMA * F.softplus(-logits)
    negative = (1 - FOCAL_ALPHA) * logits.sigmoid() ** FOCAL_GAMMA * F.softplus(logits)
    change = positive - negative
    costs = []
    for layer in range(len(logits)):
        for image, (label, wanted) in enumerate(zip(labels, objects, strict=True)):
            seen = boxes[layer, image]
            l1 = (seen[:, None] - wanted[None]).abs().sum(-1)
            giou = generalized_iou(to_corners(seen)[:, None], to_corners(wanted)[None])
            cost = CLASS_COST * change[layer, image][:, label] + L1_COST * l1 - GIOU_COST * giou
            more = extra(layer, image)
            costs.append(cost if more is None else cost + more)
    pairs = assign(costs)
    images = len(labels)
    return [pairs[start : start + images] for start in range(0, len(pairs), images)]

"""Match queries to objects in every layer, and unite the matches of all layers (arXiv:2410.13842, section 4.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.models.box_geometry import assign, generalized_iou, to_corners

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
CLASS_COST, L1_COST, GIOU_COST = 2.0, 5.0, 2.0  # as published: configs/dfine/include/dfine_hgnetv2.yml

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


def unite(layers: Sequence[Matches], *, queries: int, objects: Sequence[int]) -> Matches:
    """Return the union of the matches of all layers, which the box losses of every layer share.

    A query that layers match to different objects keeps the one of most layers; of equally many, the first object.

    Args:
        layers: Matches of each layer.
        queries: Number of queries.
        objects: Number of objects of each image.
    """
    united: Matches = []
    for image, count in enumerate(objects):
        votes = np.zeros((queries, max(count, 1)), dtype=np.int64)
        for matches in layers:
            query, found = matches[image]
            votes[query.numpy(), found.numpy()] += 1
        chosen = np.flatnonzero(votes.any(axis=1))
        united.append((torch.from_numpy(chosen), torch.from_numpy(votes[chosen].argmax(axis=1))))
    return united

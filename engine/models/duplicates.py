"""Suppression of duplicates among the detections of a model, the same in torch and in an exported graph."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.models.box_geometry import clipped_corners, iou

ROUNDS = 8
"""Rounds of suppression. Each settles at least the next box of a chain of overlapping boxes, in practice nearly all."""


def suppress_duplicates(
    scores: Tensor, classes: Tensor, boxes: Tensor, *, limit: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the detections with score 0 for those that repeat a better one of their class, best first.

    This is NMS within each class. It has no loop over boxes and keeps all shapes (Cluster-NMS, arXiv:2005.03572), so
    that it can be part of an exported graph.

    Args:
        scores: (B, K), descending.
        classes: (B, K) int64.
        boxes: (B, K, 4) center x, center y, width, height, as shares of the image's width and height.
        limit: IoU above which two boxes of one class are one object; 1 suppresses nothing.
    """
    if limit >= 1:
        return scores, classes, boxes
    edges = clipped_corners(boxes.float())
    rank = torch.arange(scores.shape[1], device=scores.device)
    rivals = (rank[:, None] < rank) & (classes[:, :, None] == classes[:, None, :])
    covers = (rivals & (iou(edges[:, :, None], edges[:, None, :]) > limit)).float()  # (B, K, K): row over column
    kept = torch.ones_like(scores)
    for _ in range(ROUNDS):
        kept = 1 - (covers * kept[..., None]).amax(1)
    scores, order = (scores * kept).topk(scores.shape[1])
    return scores, classes.gather(1, order), boxes.gather(1, order[..., None].expand(-1, -1, 4))

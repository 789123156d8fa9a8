"""Objects of one image as targets of a detector, and what is neither object nor background."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.models.box_geometry import iou, share_inside, to_corners

IGNORED_IOU = 0.5
"""IoU with an ignored object, or share inside a crowd, from which on a query is not background: COCO's lowest match."""


@dataclass(frozen=True)
class Targets:
    """The objects of one image.

    Attributes:
        labels: (N,) int64, class indices.
        boxes: (N, 4) center x, center y, width, height, as shares of the image's width and height.
        scores: (N,) in 0..1, the probability that the object exists: 1 for a human label.
        ignored_labels: (M,) int64, classes of the ignored regions.
        ignored_boxes: (M, 4) like ``boxes``: crowds and unsure objects, which are neither object nor background.
        ignored_crowds: (M,) bool, whether objects may lie anywhere inside the region.
        masks: (N, h, w) float32, shares of cells inside each object; negative cells are ignored. None without masks.
    """

    labels: Tensor
    boxes: Tensor
    scores: Tensor
    ignored_labels: Tensor
    ignored_boxes: Tensor
    ignored_crowds: Tensor
    masks: Tensor | None = None


@torch.no_grad()
def ignored(boxes: Tensor, targets: Sequence[Targets], classes: int) -> Tensor:
    """Return (B, Q, C) bool: whether the query lies on an ignored region of the class.

    It lies on an unsure object by its IoU with it, and in a crowd by the share of its own area inside.
    """
    found = torch.zeros(*boxes.shape[:2], classes, dtype=torch.bool, device=boxes.device)
    for image, target in enumerate(targets):
        if not len(target.ignored_labels):
            continue
        seen, regions = to_corners(boxes[image])[:, None], to_corners(target.ignored_boxes)[None]
        inside = share_inside(boxes[image], target.ignored_boxes)
        covered = torch.where(target.ignored_crowds, inside, iou(seen, regions)) >= IGNORED_IOU  # (Q, M)
        per_class = F.one_hot(target.ignored_labels, classes).bool()
        found[image] = (covered[..., None] & per_class[None]).any(1)
    return found

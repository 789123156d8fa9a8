"""Grounding DINO's training objective, computed from logits and boxes alone.

Focal loss over the tokens of the caption, L1 and generalized IoU on matched boxes, at every decoder layer and at the
encoder's proposals, as in arXiv:2303.05499 and its reference for fine-tuning, Open-GroundingDino
(``models/GroundingDINO/groundingdino.py`` and ``matcher.py``). All of it is 32 bit, whatever the model computes in.

Losses are sums divided by a given count of objects. They do not depend on how the images of a step are divided into
batches or over processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.models.box_geometry import assign, share_inside
from engine.models.box_geometry import generalized_iou as generalized_iou
from engine.models.box_geometry import to_corners as to_corners

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
CLASS_COST, L1_COST, GIOU_COST = 1.0, 5.0, 2.0  # of matching: Open-GroundingDino, config/cfg_odvg.py

IN_CROWD = 0.5
"""Minimum share of a detection inside a crowd for it not to count as an error: COCO's lowest IoU of a match."""


@dataclass(frozen=True)
class Targets:
    """The objects of one image whose class is in its caption.

    Attributes:
        boxes: (N, 4) center x, center y, width, height, as shares of the image's width and height.
        tokens: (N, T) bool, the tokens of the caption that name each object's class.
        crowd_boxes: (M, 4) like ``boxes``, regions in which objects are not annotated one by one; None without any.
        crowd_tokens: (M, T) bool, the tokens that name the class of each crowd; None without any.
    """

    boxes: Tensor
    tokens: Tensor
    crowd_boxes: Tensor | None = None
    crowd_tokens: Tensor | None = None


@dataclass(frozen=True)
class Predictions:
    """Predictions of L layers for B images.

    Attributes:
        logits: (L, B, Q, T) for each query and token of the caption.
        boxes: (L, B, Q, 4) center x, center y, width, height, as shares of the image's width and height.
    """

    logits: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class Losses:
    """Scalars with gradient: sums over layers, images and objects, divided by the count."""

    classification: Tensor
    l1: Tensor
    giou: Tensor


def detection_losses(
    predictions: Predictions, targets: Sequence[Targets], *, text_mask: Tensor, count: float
) -> Losses:
    """Match queries to objects in every layer, and compute the losses.

    The label of a query and a token is 1 if the token names the class of the matched object, else 0. In an image
    without objects all labels are 0. Unmatched queries inside a crowd have no loss for the tokens of the crowd's class:
    COCO's evaluation does not count such detections either.

    Args:
        predictions: Predictions of all layers.
        targets: Targets of each image.
        text_mask: (B, T) bool, False where a caption is padded.
        count: Objects that the losses are averaged over.
    """
    layers = len(predictions.logits)
    logits, boxes = predictions.logits.float().flatten(0, 1), predictions.boxes.float().flatten(0, 1)
    targets, text_mask = list(targets) * layers, text_mask.repeat(layers, 1)

    matches = match(Predictions(logits.detach(), boxes.detach()), targets, text_mask=text_mask)
    image = torch.cat([torch.full_like(query, i) for i, (query, _) in enumerate(matches)])
    query = torch.cat([query for query, _ in matches])
    seen = boxes[image, query]
    wanted = torch.cat([target.boxes[found] for target, (_, found) in zip(targets, matches, strict=True)])
    named = torch.cat([target.tokens[found] for target, (_, found) in zip(targets, matches, strict=True)])

    labels = torch.zeros_like(logits)
    labels[image, query] = named.to(labels.dtype)
    labelled = ~in_crowds(boxes, targets, length=logits.shape[-1])
    labelled[image, query] = True
    focal = sigmoid_focal_loss(logits.masked_fill(~text_mask[:, None], 0), labels)
    return Losses(
        classification=(focal * (text_mask[:, None] & labelled)).sum() / count,
        l1=(seen - wanted).abs().sum() / count,
        giou=(1 - generalized_iou(to_corners(seen), to_corners(wanted))).sum() / count,
    )


@torch.no_grad()
def in_crowds(boxes: Tensor, targets: Sequence[Targets], *, length: int) -> Tensor:
    """Return (B, Q, T) bool: whether the query lies in a crowd of the class that the token names.

    Args:
        boxes: (B, Q, 4) center x, center y, width, height, as shares of the image.
        targets: Targets of each image.
        length: Number of tokens T of the captions.
    """
    found = torch.zeros(*boxes.shape[:2], length, dtype=torch.bool, device=boxes.device)
    for inside, seen, target in zip(found, boxes, targets, strict=True):
        if target.crowd_boxes is None or target.crowd_tokens is None or not len(target.crowd_boxes):
            continue
        share = share_inside(seen, target.crowd_boxes)  # (Q, M)
        inside |= ((share >= IN_CROWD)[..., None] & target.crowd_tokens[None]).any(1)
    return found


@torch.no_grad()
def match(predictions: Predictions, targets: Sequence[Targets], *, text_mask: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Assign to each object the query of lowest cost, each query at most once (Hungarian method).

    An object's classification cost is the mean over its tokens of the change of the focal loss if the token's label
    becomes 1.

    Args:
        predictions: (B, Q, T) and (B, Q, 4), 32 bit.
        targets: The objects of each image.
        text_mask: (B, T) bool, False where a caption is padded.

    Returns:
        For each image with N objects the indices of queries and of the objects assigned to them, each (min(N, Q),)
        int64 on the device of the predictions.
    """
    scores = predictions.logits.masked_fill(~text_mask[:, None], 0)
    change = sigmoid_focal_loss(scores, torch.ones_like(scores)) - sigmoid_focal_loss(scores, torch.zeros_like(scores))
    costs = []
    for token_costs, boxes, target in zip(change, predictions.boxes, targets, strict=True):
        tokens = target.tokens.to(token_costs.dtype)
        classification = token_costs @ (tokens / tokens.sum(-1, keepdim=True)).T
        l1 = (boxes[:, None] - target.boxes[None]).abs().sum(-1)
        giou = generalized_iou(to_corners(boxes)[:, None], to_corners(target.boxes)[None])
        costs.append(CLASS_COST * classification + L1_COST * l1 - GIOU_COST * giou)  # (Q, N)
    device = scores.device
    return [(query.to(device), found.to(device)) for query, found in assign(costs)]


def sigmoid_focal_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Focal loss of each element (arXiv:1708.02002, equation 5), same shape as ``logits``."""
    probability = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    missed = probability + labels - 2 * probability * labels  # 1 - p of what is true
    weight = FOCAL_ALPHA * labels + (1 - FOCAL_ALPHA) * (1 - labels)
    return weight * missed**FOCAL_GAMMA * cross_entropy

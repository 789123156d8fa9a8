"""D-FINE's training objective (arXiv:2410.13842), computed from logits, boxes and distributions of edges alone.

At the encoder's proposals, the initial boxes and every decoder layer: varifocal loss over classes, L1 and generalized
IoU on boxes. At every decoder layer also fine-grained localization (FGL) and, except at the last one, distillation from
the last layer (DDF), and with masks those of :mod:`engine.students.dfine.mask_losses`. Classes and masks are learned
by each layer's own matches, boxes by the union of all layers' matches (GO-LSD). Denoising queries have the same losses
with their known objects.

The library's loss differs: it pairs logits and boxes of a layer with the distributions of the next one, leaves out the
second-last layer and the last layer's FGL, and matches boxes for each layer on its own.

Losses are sums over images divided by a given count of objects. An image weighs by its number of objects, and not by
its number of matches as in the authors' code, so that losses do not depend on how the images of a step are divided.
All of it is 32 bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.models.box_geometry import generalized_iou, iou, to_corners
from engine.students.dfine.distributions import edge_targets, fine_grained_localization, self_distillation
from engine.students.dfine.mask_losses import mask_costs, mask_losses
from engine.students.dfine.matching import unite
from engine.students.mask_terms import MASK_TERMS
from engine.students.matching import Matches, match_layers
from engine.students.targets import Targets, ignored

FOCAL_ALPHA, FOCAL_GAMMA = 0.75, 2.0  # as published: configs/dfine/include/dfine_hgnetv2.yml

TERMS = ("vfl", "l1", "giou", "fgl", "ddf")

BOX_LAYERS = 2
"""The encoder's proposals and the initial boxes, which have no masks, come before the decoder layers."""


@dataclass(frozen=True)
class Queries:
    """Predictions of Q queries for B images.

    Attributes:
        logits: (L + 1, B, Q, C) of the initial boxes and L decoder layers.
        boxes: (L + 1, B, Q, 4) center x, center y, width, height.
        edges: (L, B, Q, 4, bins + 1) logits of the distributions of the decoder layers.
        initial: (B, Q, 4) initial boxes, which the distributions refer to.
        masks: Returns the mask logits (K, h, w) of a decoder layer and an image at the indices (K,) of queries; None
            without masks.
    """

    logits: Tensor
    boxes: Tensor
    edges: Tensor
    initial: Tensor
    masks: Callable[[int, int, Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Bins:
    """Bins of the distributions; see :mod:`engine.students.dfine.distributions`."""

    offsets: Tensor
    scale: float


def detection_losses(
    queries: Queries, proposals: tuple[Tensor, Tensor], targets: Sequence[Targets], *, bins: Bins, count: float
) -> dict[str, Tensor]:
    """Match queries to objects and return the sum of each term over layers, images and objects, by :data:`TERMS`.

    Args:
        queries: Predictions of all layers.
        proposals: Logits (B, Q, C) and boxes (B, Q, 4) of the encoder's proposals that became queries.
        targets: Objects of each image.
        bins: Bins of the distributions.
        count: Objects that the losses are averaged over.
    """
    logits = torch.cat([proposals[0][None], queries.logits])
    boxes = torch.cat([proposals[1][None], queries.boxes])
    own = match_layers(
        logits.detach(),
        boxes.detach(),
        labels=[one.labels for one in targets],
        objects=[one.boxes for one in targets],
        extra=partial(_mask_costs, queries, targets),
    )
    union = unite(own, queries=logits.shape[2], objects=[len(one.labels) for one in targets])
    return _sum(
        [_class_loss(*layer, targets) for layer in zip(logits, boxes, own, strict=True)],
        [_box_losses(layer, union, targets) for layer in boxes],
        _edge_losses(queries, union, targets, bins) | _mask_losses(queries, own[BOX_LAYERS:], targets),
        count,
    )


def denoising_losses(
    queries: Queries, matches: Matches, targets: Sequence[Targets], *, bins: Bins, groups: int, count: float
) -> dict[str, Tensor]:
    """Return the same terms of denoising queries, whose objects are known.

    Args:
        queries: Predictions of all layers.
        matches: Positive queries of each image, with their objects.
        targets: Objects of each image.
        bins: Bins of the distributions.
        groups: Copies of each object.
        count: Objects that the losses are averaged over.
    """
    layers = list(zip(queries.logits, queries.boxes, strict=True))
    return _sum(
        [_class_loss(*layer, matches, targets) / groups for layer in layers],
        [_box_losses(boxes, matches, targets) for _, boxes in layers],
        _edge_losses(queries, matches, targets, bins)
        | {
            term: value / groups
            for term, value in _mask_losses(queries, [matches] * len(queries.edges), targets).items()
        },
        count,
    )


def _sum(
    classes: Sequence[Tensor], boxes: Sequence[Mapping[str, Tensor]], edges: Mapping[str, Tensor], count: float
) -> dict[str, Tensor]:
    sums = {"vfl": torch.stack(list(classes)).sum()}
    sums |= {term: torch.stack([one[term] for one in boxes]).sum() for term in ("l1", "giou")}
    return {term: value / count for term, value in (sums | dict(edges)).items()}


def _class_loss(logits: Tensor, boxes: Tensor, matches: Matches, targets: Sequence[Targets]) -> Tensor:
    """Return the varifocal loss (arXiv:2008.13367) of one layer, summed.

    The target of a matched query is its IoU with the object times the score of the object, so that an unsure label
    wants less confidence. Unmatched queries on an ignored region have no loss for the class of the region.
    """
    image, query = _positions(matches, logits.device)
    quality = torch.zeros_like(logits)
    if len(image):
        labels, wanted, scores = _wanted(matches, targets)
        overlap = iou(to_corners(boxes[image, query].detach()), to_corners(wanted))
        quality[image, query, labels] = overlap.clamp(0, 1) * scores
        positive = torch.zeros_like(logits, dtype=torch.bool)
        positive[image, query, labels] = True
    else:
        positive = torch.zeros_like(logits, dtype=torch.bool)
    background = FOCAL_ALPHA * logits.detach().sigmoid() ** FOCAL_GAMMA
    weight = torch.where(positive, quality, background) * (positive | ~ignored(boxes, targets, logits.shape[-1]))
    return F.binary_cross_entropy_with_logits(logits, quality, weight=weight, reduction="sum")


def _box_losses(boxes: Tensor, matches: Matches, targets: Sequence[Targets]) -> dict[str, Tensor]:
    """Return L1 and generalized IoU of one layer, summed; each image weighs by its number of objects."""
    image, query = _positions(matches, boxes.device)
    if not len(image):
        return dict.fromkeys(("l1", "giou"), boxes.sum() * 0)
    _, wanted, _ = _wanted(matches, targets)
    seen, weight = boxes[image, query], _weights(matches, targets)
    giou = generalized_iou(to_corners(seen), to_corners(wanted))
    return {"l1": ((seen - wanted).abs().sum(-1) * weight).sum(), "giou": ((1 - giou) * weight).sum()}


def _edge_losses(queries: Queries, matches: Matches, targets: Sequence[Targets], bins: Bins) -> dict[str, Tensor]:
    """Return FGL and DDF, summed over decoder layers."""
    image, query = _positions(matches, queries.logits.device)
    if not len(image):
        return dict.fromkeys(("fgl", "ddf"), queries.edges.sum() * 0)
    _, wanted, _ = _wanted(matches, targets)
    weight = _weights(matches, targets)
    with torch.no_grad():
        found = edge_targets(queries.initial[image, query], to_corners(wanted), bins.offsets, scale=bins.scale)
        matched = torch.zeros(queries.edges.shape[1:3], dtype=torch.bool, device=image.device)
        matched[image, query] = True
    fgl, ddf = [], []
    confidence = queries.logits[-1].detach().sigmoid().amax(-1)
    for layer, (edges, boxes) in enumerate(zip(queries.edges, queries.boxes[1:], strict=True)):
        overlap = iou(to_corners(boxes[image, query].detach()), to_corners(wanted)).clamp(0, 1)
        fgl.append((fine_grained_localization(edges[image, query], *found).sum(-1) * overlap * weight).sum())
        if layer + 1 < len(queries.edges):
            quality = confidence.index_put((image, query), overlap)
            divergence = self_distillation(edges, queries.edges[-1]).mean(-1) * quality
            ddf.append(_balanced(divergence, matched, targets))
    return {"fgl": torch.stack(fgl).sum(), "ddf": torch.stack([queries.edges.sum() * 0, *ddf]).sum()}


def _mask_costs(queries: Queries, targets: Sequence[Targets], layer: int, image: int) -> Tensor | None:
    """Return the matching costs (Q, N) of masks; None without masks."""
    masks = targets[image].masks
    if queries.masks is None or masks is None or layer < BOX_LAYERS or not len(masks):
        return None
    every = torch.arange(queries.logits.shape[2], device=masks.device)
    return mask_costs(queries.masks(layer - BOX_LAYERS, image, every), masks)


def _mask_losses(queries: Queries, layers: Sequence[Matches], targets: Sequence[Targets]) -> dict[str, Tensor]:
    """Return the losses of masks, summed over decoder layers; nothing without masks."""
    masks, logits = [one.masks for one in targets if one.masks is not None], queries.masks
    if logits is None or len(masks) < len(targets):
        return {}
    boxes, untouched = [one.boxes for one in targets], queries.logits.sum() * 0
    parts = [mask_losses(partial(logits, layer), matches, masks, boxes) for layer, matches in enumerate(layers)]
    return {
        term: torch.stack([untouched, *(part[term].to(untouched.device) for part in parts)]).sum()
        for term in MASK_TERMS
    }


def _balanced(values: Tensor, matched: Tensor, targets: Sequence[Targets]) -> Tensor:
    """Return the means over matched and unmatched queries, weighted by the roots of their numbers, summed over images.

    Args:
        values: (B, Q).
        matched: (B, Q) bool.
        targets: Objects of each image, by whose number it weighs.
    """
    objects = torch.tensor([float(len(one.labels)) for one in targets], device=values.device)
    means, roots = [], []
    for some in (matched, ~matched):
        number = some.sum(-1)
        means.append((values * some).sum(-1) / number.clamp(min=1))
        roots.append(number.sqrt())
    return (objects * (means[0] * roots[0] + means[1] * roots[1]) / (roots[0] + roots[1])).sum()


def _positions(matches: Matches, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return image and query of all matches, (K,) each."""
    image = torch.cat([torch.full_like(query, index) for index, (query, _) in enumerate(matches)])
    return image.to(device), torch.cat([query for query, _ in matches]).to(device)


def _wanted(matches: Matches, targets: Sequence[Targets]) -> tuple[Tensor, Tensor, Tensor]:
    """Return labels, boxes and scores of the objects of all matches."""
    pairs = [(one, found.to(one.labels.device)) for one, (_, found) in zip(targets, matches, strict=True)]
    return (
        torch.cat([one.labels[found] for one, found in pairs]),
        torch.cat([one.boxes[found] for one, found in pairs]),
        torch.cat([one.scores[found] for one, found in pairs]),
    )


def _weights(matches: Matches, targets: Sequence[Targets]) -> Tensor:
    """Return (K,) the weight of each match: those of an image together weigh as many as its objects."""
    each = [len(one.labels) / max(1, len(query)) for one, (query, _) in zip(targets, matches, strict=True)]
    numbers = torch.tensor([len(query) for query, _ in matches])
    return torch.tensor(each).repeat_interleave(numbers).to(targets[0].boxes.device)

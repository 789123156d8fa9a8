"""Our objective beside one written down plainly from the papers: an image, a query and a token at a time.

Focal loss (arXiv:1708.02002), generalized IoU (arXiv:1902.09630), matching and losses of DETR (arXiv:2005.12872) at
every decoder layer and at the proposals (DINO, arXiv:2203.03605), over tokens (Grounding DINO, arXiv:2303.05499).
"""

from __future__ import annotations

from itertools import permutations
from math import log
from typing import Any

import numpy as np
import pytest
import torch
from tiny import noise, random_teacher
from torch import Tensor
from torch.nn import functional as F

from engine.config import LoraSettings
from engine.models.activation_checkpointing import recompute
from engine.models.base import Batch
from engine.models.lora import attach, trainable_parameters
from engine.spec import LoraPreset
from engine.teachers.grounding_dino.layer_predictions import proposals
from engine.teachers.grounding_dino.loss import (
    Predictions,
    Targets,
    detection_losses,
    generalized_iou,
    match,
    sigmoid_focal_loss,
)
from engine.teachers.grounding_dino.model import GroundingDino

PARTS = ("classification", "l1", "giou")


def focal(logit: Tensor, wanted: bool) -> Tensor:
    p = 1 / (1 + torch.exp(-logit))
    return -0.25 * (1 - p) ** 2 * F.logsigmoid(logit) if wanted else -0.75 * p**2 * F.logsigmoid(-logit)


def giou(a: Tensor, b: Tensor) -> Tensor:
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = (
        (x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in (a.unbind(), b.unbind())
    )
    zero = torch.zeros(())
    inner = torch.maximum(torch.minimum(ax1, bx1) - torch.maximum(ax0, bx0), zero) * torch.maximum(
        torch.minimum(ay1, by1) - torch.maximum(ay0, by0), zero
    )
    union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - inner
    hull = (torch.maximum(ax1, bx1) - torch.minimum(ax0, bx0)) * (torch.maximum(ay1, by1) - torch.minimum(ay0, by0))
    return inner / union - (hull - union) / hull


def cheapest(logits: Tensor, boxes: Tensor, target: Targets, real: int) -> tuple[int, ...]:
    """The query of each object, found by trying all."""

    def cost(query: int, found: int) -> float:
        tokens = [t for t in range(real) if target.tokens[found, t]]
        named = sum(focal(logits[query, t], True) - focal(logits[query, t], False) for t in tokens) / len(tokens)
        apart = sum(abs(boxes[query, i] - target.boxes[found, i]) for i in range(4))
        return float(named + 5 * apart - 2 * giou(boxes[query], target.boxes[found]))

    costs = [[cost(q, n) for n in range(len(target.boxes))] for q in range(len(boxes))]
    ways = permutations(range(len(boxes)), len(target.boxes))
    return min(ways, key=lambda way: sum(costs[q][n] for n, q in enumerate(way)))


def reference(predictions: Predictions, targets: list[Targets], text_mask: Tensor, count: float) -> dict[str, Tensor]:
    total = {part: torch.zeros((), dtype=predictions.logits.dtype) for part in PARTS}
    for layer_logits, layer_boxes in zip(predictions.logits, predictions.boxes, strict=True):
        for logits, boxes, target, mask in zip(layer_logits, layer_boxes, targets, text_mask, strict=True):
            real = int(mask.sum())
            way = cheapest(logits.detach(), boxes.detach(), target, real)
            for query in range(len(boxes)):
                named = target.tokens[way.index(query)] if query in way else torch.zeros(real, dtype=torch.bool)
                for token in range(real):
                    total["classification"] = total["classification"] + focal(logits[query, token], bool(named[token]))
            for found, query in enumerate(way):
                total["l1"] = total["l1"] + sum(abs(boxes[query, i] - target.boxes[found, i]) for i in range(4))
                total["giou"] = total["giou"] + 1 - giou(boxes[query], target.boxes[found])
    return {part: value / count for part, value in total.items()}


def test_losses_by_hand() -> None:
    one = torch.zeros(1)
    assert sigmoid_focal_loss(one, torch.ones(1)).item() == pytest.approx(0.25 * 0.5**2 * log(2))
    assert sigmoid_focal_loss(one, torch.zeros(1)).item() == pytest.approx(0.75 * 0.5**2 * log(2))
    a, b = torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([1.0, 1.0, 3.0, 3.0])
    assert generalized_iou(a, b).item() == pytest.approx(1 / 7 - 2 / 9)

    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.4]])  # the second is half covered by the object
    target = Targets(torch.tensor([[0.5, 0.5, 0.2, 0.2]]), torch.tensor([[True, False]]))
    found = Predictions(torch.zeros(1, 1, 2, 2), boxes[None, None])
    losses = detection_losses(found, [target], text_mask=torch.ones(1, 2, dtype=torch.bool), count=2)
    assert losses.classification.item() == pytest.approx((0.25 + 3 * 0.75) * 0.25 * log(2) / 2)
    assert losses.l1.item() == losses.giou.item() == 0
    worse = Predictions(torch.zeros(1, 1, 1, 2), boxes[None, None, 1:])
    losses = detection_losses(worse, [target], text_mask=torch.ones(1, 2, dtype=torch.bool), count=2)
    assert losses.l1.item() == pytest.approx(0.2 / 2)
    assert losses.giou.item() == pytest.approx((1 - 0.5) / 2)


@pytest.mark.parametrize("seed", range(4))
def test_losses_and_gradients_are_those_of_the_papers_with_captions_of_their_own(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    layers, images, queries, tokens = 3, 3, 5, 7
    lengths = torch.tensor([7, 3, 5])
    mask = torch.arange(tokens) < lengths[:, None]
    logits = torch.randn(layers, images, queries, tokens, generator=generator) * 2
    boxes = torch.rand(layers, images, queries, 4, generator=generator) * 0.4 + 0.2
    targets = []
    for count, length in zip((3, 1, 0), lengths.tolist(), strict=True):
        spans = torch.zeros(count, tokens, dtype=torch.bool)
        for row in spans:
            start = int(torch.randint(length - 1, (), generator=generator))
            row[start : start + 2] = True
        targets.append(Targets(torch.rand(count, 4, generator=generator) * 0.4 + 0.2, spans))
    predictions = Predictions(logits.requires_grad_(), boxes.requires_grad_())

    ours = detection_losses(predictions, targets, text_mask=mask, count=4)
    papers = reference(predictions, targets, mask, count=4)
    for part in PARTS:
        torch.testing.assert_close(getattr(ours, part), papers[part])
    sums = [sum(getattr(ours, part) for part in PARTS), sum(papers.values())]
    for found, expected in zip(*(torch.autograd.grad(s, (logits, boxes)) for s in sums), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_queries_are_matched_as_trying_all_ways_would() -> None:
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        logits, boxes = torch.randn(6, 4, generator=generator), torch.rand(6, 4, generator=generator) * 0.4 + 0.2
        spans = torch.eye(4, dtype=torch.bool)[torch.randint(4, (3,), generator=generator)]
        target = Targets(torch.rand(3, 4, generator=generator) * 0.4 + 0.2, spans)
        ((query, found),) = match(
            Predictions(logits[None], boxes[None]), [target], text_mask=torch.ones(1, 4, dtype=torch.bool)
        )
        assert tuple(query[found.argsort()].tolist()) == cheapest(logits, boxes, target, 4)


@pytest.mark.parametrize("kind", ["grounding-dino", "mm-grounding-dino"])
def test_a_models_loss_is_that_of_the_papers(kind: str) -> None:
    """Decoder layers from what the library says of each; proposals from what its encoder says of every place."""
    teacher = random_teacher([f"{a} {b}" for a in "abc" for b in "de"], kind=kind, limit=12)
    samples = [
        noise([(10, 10, 40, 50), (0, 20, 30, 64)], [1, 5], seed=1),
        noise([(20, 5, 60, 40)], [2], seed=2),
        noise(seed=3),
    ]
    batch = teacher.collate([teacher.example(s, np.random.default_rng(i)) for i, s in enumerate(samples)])
    assert len(set(map(tuple, batch["input_ids"].tolist()))) > 1
    mask = batch["attention_mask"].bool()
    spoken: list[Tensor] = []
    hook = teacher.model.class_embed[0].register_forward_hook(lambda _, __, logits: spoken.append(logits))
    with torch.no_grad():
        outputs = teacher.model(
            pixel_values=batch["pixel_values"][batch["images"]],
            pixel_mask=batch["pixel_mask"][batch["images"]],
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
        )
        hook.remove()
        losses = teacher.loss(batch, count=3)
    layers = [(spoken[0], outputs.intermediate_reference_points[:, 0]), (outputs.logits, outputs.pred_boxes)]
    everywhere, places = outputs.enc_outputs_class, outputs.enc_outputs_coord_logits
    for row in range(len(mask)):
        order = sorted(range(everywhere.shape[1]), key=lambda i: -float(everywhere[row, i].max()))[:12]
        torch.testing.assert_close(places[row, order].sigmoid(), outputs.init_reference_points[row])
    best = everywhere.max(-1).values.topk(12).indices
    at = torch.arange(len(mask))[:, None]
    layers.append((everywhere[at, best], places[at, best].sigmoid()))
    predictions = Predictions(
        torch.stack([logits[..., : mask.shape[1]] for logits, _ in layers]), torch.stack([b for _, b in layers])
    )
    targets = [Targets(b, t) for b, t in zip(batch["boxes"], batch["tokens"], strict=True)]
    papers = reference(predictions, targets, mask, count=3)
    for part in PARTS:
        torch.testing.assert_close(losses[part], papers[part], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses["loss"], 2 * papers["classification"] + 5 * papers["l1"] + 2 * papers["giou"])


def published_layers(teacher: GroundingDino, batch: Batch, *, detach: bool) -> tuple[Any, Predictions]:
    """Predictions of the decoder's layers as ``transformer.py`` and ``groundingdino.py`` of IDEA compute them.

    Args:
        teacher: A teacher with an adapter.
        batch: Its batch.
        detach: Like transformers: the boxes of a layer have no gradient by the layer before.
    """
    detector = teacher.model.get_base_model()
    heads, norm, states = detector.model.decoder.bbox_embed, detector.model.decoder.layer_norm, []
    hooks = [
        layer.register_forward_hook(lambda _, __, output: states.append(output[0]))
        for layer in detector.model.decoder.layers
    ]
    outputs = teacher.model(**{n: batch[n] for n in ("pixel_values", "pixel_mask", "input_ids", "attention_mask")})
    for hook in hooks:
        hook.remove()
    reference, references = outputs.init_reference_points, [outputs.init_reference_points]
    for head, state in zip(heads, states, strict=True):
        new = (head(state) + torch.logit(reference, eps=1e-5)).sigmoid()
        reference = new.detach()
        references.append(reference if detach else new)
    mask, text = batch["attention_mask"].bool(), outputs.encoder_last_hidden_state_text
    boxes = [
        (head(norm(state)) + torch.logit(before, eps=1e-5)).sigmoid()
        for head, state, before in zip(heads, states, references, strict=False)
    ]
    logits = [detector.class_embed[0](norm(state), text, mask)[..., : mask.shape[1]] for state in states]
    return outputs, Predictions(torch.stack(logits), torch.stack(boxes))


@pytest.mark.parametrize("kind", ["grounding-dino", "mm-grounding-dino"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_boxes_have_the_published_gradient_through_the_layer_before(kind: str, checkpointing: bool) -> None:
    """Look forward twice (arXiv:2203.03605); transformers computes the same boxes with another gradient."""
    teacher = random_teacher(kind=kind, layers=3, classification_weight=0)
    attach(teacher, LoraSettings(preset=LoraPreset.DECODER, rank=2, alpha=2, dropout=0))
    for name, parameter in trainable_parameters(teacher).items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    samples = [noise([(10, 10, 40, 50), (0, 20, 30, 64)], [1, 0], seed=1), noise([(20, 5, 60, 40)], [0], seed=2)]
    batch = teacher.collate([teacher.example(s, np.random.default_rng(0)) for s in samples])
    targets = [Targets(b, t) for b, t in zip(batch["boxes"], batch["tokens"], strict=True)]
    mask, parameters = batch["attention_mask"].bool(), trainable_parameters(teacher)

    def published(*, detach: bool) -> tuple[Tensor, Tensor]:
        outputs, layers = published_layers(teacher, batch, detach=detach)
        (first,) = proposals(outputs, mask)
        every = Predictions(
            torch.cat([layers.logits, first.logits[None]]), torch.cat([layers.boxes, first.boxes[None]])
        )
        losses = detection_losses(every, targets, text_mask=mask, count=3)
        return total(5 * losses.l1 + 2 * losses.giou)

    def total(loss: Tensor) -> tuple[Tensor, Tensor]:
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        return loss, torch.cat([g.flatten() for g in found if g is not None])

    recompute(teacher, ["decoder"] if checkpointing else [])
    ours, right, library = total(teacher.loss(batch, count=3)["loss"]), published(detach=False), published(detach=True)
    torch.testing.assert_close(ours[0], right[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(library[0], right[0], rtol=1e-6, atol=0)
    assert (ours[1] - right[1]).norm() < 1e-5 * right[1].norm()
    assert (library[1] - right[1]).norm() > 0.1 * right[1].norm()

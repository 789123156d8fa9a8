"""Our objective beside the library's: the same where that is right, and right where that is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from loops import nonempty
from tiny import random_grounding_dino
from torch import Tensor
from torchvision.ops import generalized_box_iou
from torchvision.ops import sigmoid_focal_loss as torchvision_focal_loss
from transformers.loss.loss_grounding_dino import (
    GroundingDinoForObjectDetectionLoss,
    GroundingDinoHungarianMatcher,
    GroundingDinoImageLoss,
)

from engine.teachers.grounding_dino.layer_predictions import proposals, stack
from engine.teachers.grounding_dino.loss import (
    Predictions,
    Targets,
    detection_losses,
    generalized_iou,
    match,
    sigmoid_focal_loss,
    to_corners,
)

IMAGES, QUERIES, TOKENS = 3, 10, 12
SPANS = torch.zeros(3, TOKENS, dtype=torch.bool)
SPANS[0, 1:3] = SPANS[1, 4] = SPANS[2, 6:9] = True
"""Tokens of three classes in a caption of ten tokens, padded to twelve."""
MASK = torch.arange(TOKENS).expand(IMAGES, -1) < 10


def random_boxes(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, 4, generator=generator) * 0.4 + 0.2


@pytest.fixture
def case() -> tuple[Predictions, list[Targets], list[Tensor]]:
    """One layer's predictions for images with 2, 0 and 4 objects, and the objects' classes."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, IMAGES, QUERIES, TOKENS, generator=generator)
    boxes = torch.stack([random_boxes(QUERIES, generator) for _ in range(IMAGES)])[None]
    classes = [torch.tensor(c, dtype=torch.long) for c in ([0, 2], [], [1, 1, 2, 0])]
    targets = [Targets(random_boxes(len(c), generator), SPANS[c]) for c in classes]
    return Predictions(logits.requires_grad_(), boxes.requires_grad_()), targets, classes


def library_loss(
    predictions: Predictions,
    targets: list[Targets],
    classes: list[Tensor],
    spans: list[Tensor] | None = None,
    **config: Any,
) -> dict[str, Tensor]:
    """The library's losses for the last of the layers."""
    settings = random_grounding_dino().config
    settings.two_stage = False
    for name, value in config.items():
        setattr(settings, name, value)
    logits, boxes = predictions.logits[-1], predictions.boxes[-1]
    losses: dict[str, Tensor]
    loss, losses, _ = GroundingDinoForObjectDetectionLoss(
        logits.masked_fill(~MASK[: len(logits), None], -torch.inf),
        [{"class_labels": c, "boxes": t.boxes} for c, t in zip(classes, targets, strict=True)],
        logits.device,
        boxes,
        settings,
        tuple(spans or [SPANS] * len(targets)),
        MASK[: len(logits), None].expand_as(logits),
        outputs_class=predictions.logits,
        outputs_coord=predictions.boxes,
    )
    return {"loss": loss, **losses}


def test_focal_loss_and_generalized_iou_are_the_published_ones() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(50, generator=generator) * 5, (torch.rand(50, generator=generator) > 0.5).float()
    torch.testing.assert_close(sigmoid_focal_loss(logits, labels), torchvision_focal_loss(logits, labels))
    a, b = to_corners(random_boxes(7, generator)), to_corners(random_boxes(5, generator))
    torch.testing.assert_close(generalized_iou(a[:, None], b[None]), generalized_box_iou(a, b))


def test_one_layer_and_one_caption_give_what_the_library_gives(case) -> None:
    predictions, targets, classes = case
    ours = detection_losses(predictions, targets, text_mask=MASK, count=6)
    theirs = library_loss(predictions, targets, classes)
    torch.testing.assert_close(ours.classification, theirs["loss_ce"])
    torch.testing.assert_close(ours.l1, theirs["loss_bbox"])
    torch.testing.assert_close(ours.giou, theirs["loss_giou"])


def test_objects_are_matched_as_the_library_matches_them(case) -> None:
    predictions, targets, classes = case
    flat = Predictions(predictions.logits[0], predictions.boxes[0])
    matcher = GroundingDinoHungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)
    outputs = {"logits": flat.logits.masked_fill(~MASK[:, None], -torch.inf), "pred_boxes": flat.boxes}
    theirs = matcher(
        outputs | {"label_maps": (SPANS,) * 3},
        [{"class_labels": c, "boxes": t.boxes} for c, t in zip(classes, targets, strict=True)],
    )
    for ours, expected in zip(nonempty(match(flat, targets, text_mask=MASK)), theirs, strict=True):
        assert torch.equal(ours[0], expected[0])
        assert torch.equal(ours[1], expected[1])


def test_captions_of_their_own_get_their_own_tokens() -> None:
    """The library moves the classes of image i by the number of classes of image i, not of those before it."""
    spans = [SPANS[:1], SPANS[:2], SPANS]  # images asked for 1, 2 and 3 classes
    classes = [torch.tensor([0]), torch.tensor([0]), torch.tensor([1])]
    boxes = torch.full((1, 4), 0.5)
    targets = [Targets(boxes, s[c]) for s, c in zip(spans, classes, strict=True)]
    indices = [(torch.tensor([0]), torch.tensor([0]))] * 3
    logits = torch.zeros(3, 1, TOKENS)
    library = GroundingDinoImageLoss(matcher=None, focal_alpha=0.25, losses=[])
    taught = library._get_target_classes_one_hot(
        {"logits": logits, "label_maps": spans}, [{"class_labels": c} for c in classes], indices
    )
    expected = torch.stack([t.tokens for t in targets])
    assert not torch.equal(taught.bool(), expected)

    logits.requires_grad_()
    predictions = Predictions(logits[None], boxes.expand(1, 3, 1, 4))
    detection_losses(predictions, targets, text_mask=MASK, count=3).classification.backward()
    assert torch.equal(logits.grad < 0, expected)  # raised where the object's class is named, lowered elsewhere


def test_proposals_learn_where_objects_are() -> None:
    """The library's proposals reach its loss detached, and its classes of proposals are those of learned queries."""
    text = {"input_ids": torch.tensor([[101, 200, 1012, 201, 1012, 102]]), "pixel_values": torch.rand(1, 3, 64, 64)}
    boxes, mask = torch.tensor([[0.5, 0.5, 0.4, 0.4]]), torch.ones(1, 6, dtype=torch.bool)
    model = random_grounding_dino()
    places = [model.model.enc_output.weight, model.model.encoder_output_bbox_embed.layers[0].weight]

    spans = torch.zeros(2, 256, dtype=torch.long)
    spans[0, 1] = spans[1, 3] = 1
    outputs = model(**text)
    _, theirs, _ = GroundingDinoForObjectDetectionLoss(
        outputs.logits,
        [{"class_labels": torch.tensor([1]), "boxes": boxes}],
        boxes.device,
        outputs.pred_boxes,
        model.config,
        (spans,),
        mask[:, None].expand(-1, 12, -1).new_ones(1, 12, 6).new_zeros(1, 12, 256).index_fill(2, torch.arange(6), True),
        encoder_logits=outputs.encoder_logits,
        encoder_pred_boxes=outputs.encoder_pred_boxes,
    )
    enc = sum(theirs[f"loss_{part}_enc"] for part in ("ce", "bbox", "giou"))
    assert torch.autograd.grad(enc, places, allow_unused=True) == (None, None)

    tokens = torch.zeros(1, 6, dtype=torch.bool)
    tokens[0, 3] = True
    ours = detection_losses(stack(proposals(model(**text), mask)), [Targets(boxes, tokens)], text_mask=mask, count=1)
    for gradient in torch.autograd.grad(ours.classification + ours.l1 + ours.giou, places):
        assert gradient.abs().max() > 0


def test_losses_add_up_however_a_step_is_cut(case) -> None:
    """The library divides by its own part's objects: an image beside few others weighs more."""
    predictions, targets, classes = case
    whole = detection_losses(predictions, targets, text_mask=MASK, count=6)
    parts, library = [], []
    for cut in (slice(0, 2), slice(2, 3)):
        part = Predictions(predictions.logits[:, cut], predictions.boxes[:, cut])
        parts.append(detection_losses(part, targets[cut], text_mask=MASK[cut], count=6))
        library.append(library_loss(part, targets[cut], classes[cut])["loss"])
    for name in ("classification", "l1", "giou"):
        torch.testing.assert_close(sum(getattr(part, name) for part in parts), getattr(whole, name))
    assert abs(sum(library) / 2 - library_loss(predictions, targets, classes)["loss"]) > 0.1


def test_every_layer_is_taught(case) -> None:
    """The library's default teaches only the last."""
    predictions, targets, classes = case
    first = Predictions(predictions.logits.detach() + 1, predictions.boxes.detach() * 0.9)
    for tensor in (first.logits, first.boxes):
        tensor.requires_grad_()
    both = Predictions(torch.cat([first.logits, predictions.logits]), torch.cat([first.boxes, predictions.boxes]))
    theirs = library_loss(both, targets, classes)["loss"]
    assert torch.autograd.grad(theirs, [first.logits, first.boxes], allow_unused=True, retain_graph=True)[0].any() == 0

    ours = detection_losses(both, targets, text_mask=MASK, count=6)
    alone = [detection_losses(p, targets, text_mask=MASK, count=6) for p in (first, predictions)]
    for name in ("classification", "l1", "giou"):
        torch.testing.assert_close(getattr(ours, name), sum(getattr(layer, name) for layer in alone))


def test_padding_of_captions_has_no_say(case) -> None:
    predictions, targets, _ = case
    padded = predictions.logits.masked_fill(~MASK[:, None], -torch.inf)
    expected = detection_losses(predictions, targets, text_mask=MASK, count=6)
    found = detection_losses(Predictions(padded, predictions.boxes), targets, text_mask=MASK, count=6)
    assert torch.equal(found.classification, expected.classification)
    found.classification.backward()
    assert predictions.logits.grad.isfinite().all()


def test_where_nothing_is_every_score_is_lowered() -> None:
    logits = torch.zeros(1, 2, QUERIES, TOKENS, requires_grad=True)
    boxes = torch.full((1, 2, QUERIES, 4), 0.5, requires_grad=True)
    empty = [Targets(torch.zeros(0, 4), torch.zeros(0, TOKENS, dtype=torch.bool))] * 2
    losses = detection_losses(Predictions(logits, boxes), empty, text_mask=MASK[:2], count=1)
    (losses.classification + losses.l1 + losses.giou).backward()
    assert losses.l1 == losses.giou == 0
    assert (logits.grad[..., :10] > 0).all()


def test_more_objects_than_queries_leave_some_unmatched() -> None:
    generator = torch.Generator().manual_seed(0)
    target = Targets(random_boxes(5, generator), SPANS[torch.tensor([0, 1, 2, 0, 1])])
    predictions = Predictions(torch.zeros(1, 3, TOKENS), random_boxes(3, generator)[None])
    ((queries, objects),) = match(predictions, [target], text_mask=MASK[:1])
    assert queries.tolist() == [0, 1, 2]
    assert len(set(objects.tolist())) == 3


def test_a_model_that_diverged_has_a_loss_that_says_so(case) -> None:
    predictions, targets, _ = case
    broken = Predictions(predictions.logits * torch.nan, predictions.boxes * torch.nan)
    assert detection_losses(broken, targets, text_mask=MASK, count=6).classification.isnan()


def test_losses_are_32_bit_whatever_the_model_computes_in(case) -> None:
    predictions, targets, _ = case
    half = Predictions(predictions.logits.bfloat16(), predictions.boxes.bfloat16())
    losses = detection_losses(half, targets, text_mask=MASK, count=6)
    assert losses.classification.dtype == losses.l1.dtype == losses.giou.dtype == torch.float32


def crowded(case, *, covers: Tensor, of_class: int) -> list[Targets]:
    """The targets of ``case`` with a crowd in the second image, which has no objects."""
    _, targets, _ = case
    crowd = Targets(targets[1].boxes, targets[1].tokens, covers, SPANS[[of_class]])
    return [targets[0], crowd, targets[2]]


def test_a_detection_inside_a_crowd_is_not_pushed_down(case) -> None:
    predictions, _, _ = case
    everywhere = torch.tensor([[0.5, 0.5, 1.0, 1.0]])
    targets = crowded(case, covers=everywhere, of_class=2)
    detection_losses(predictions, targets, text_mask=MASK, count=6).classification.backward()
    gradient = predictions.logits.grad[0, 1]
    assert not gradient[:, SPANS[2]].any()
    assert (gradient[:, SPANS[0] | SPANS[1]] > 0).all()  # of other classes it is background


def test_a_detection_beside_a_crowd_is_background(case) -> None:
    predictions, plain, _ = case
    corner = torch.tensor([[0.01, 0.01, 0.02, 0.02]])
    found = detection_losses(predictions, crowded(case, covers=corner, of_class=2), text_mask=MASK, count=6)
    assert found.classification == detection_losses(predictions, plain, text_mask=MASK, count=6).classification


def test_an_object_in_a_crowd_is_still_learned(case) -> None:
    predictions, targets, _ = case
    everywhere = torch.tensor([[0.5, 0.5, 1.0, 1.0]])
    inside = [Targets(t.boxes, t.tokens, everywhere, SPANS[[0]]) for t in targets]
    detection_losses(predictions, inside, text_mask=MASK, count=6).classification.backward()
    gradient = predictions.logits.grad[0, 0]
    assert (gradient[:, SPANS[0]] != 0).any(1).sum() == 2  # the queries of both objects, and no other

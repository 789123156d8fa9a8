"""D-FINE's objective, term by term: against the library where it agrees with the publication, else computed plainly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from random_targets import CLASSES, boxes, targets
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from transformers import DFineConfig
from transformers.loss.loss_d_fine import DFineForObjectDetectionLoss, DFineLoss, bbox2distance, weighting_function

from engine.students.dfine.criterion import Bins, Queries, denoising_losses, detection_losses
from engine.students.dfine.distributions import bin_offsets, edge_targets
from engine.students.dfine.matching import unite
from engine.students.matching import match_layers
from engine.students.targets import Targets

QUERIES, LAYERS, BINS = 12, 3, 32
CONFIG = DFineConfig(id2label={index: str(index) for index in range(CLASSES)}, decoder_layers=LAYERS)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


class Case:
    """Random predictions for images with these numbers of objects, with gradient."""

    def __init__(self, *objects: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        images = len(objects)
        shape = (images, QUERIES)
        self.leaves = {
            "logits": torch.randn(LAYERS + 1, *shape, CLASSES, generator=generator),
            "boxes": boxes(LAYERS + 1, *shape, generator=generator),
            "edges": torch.randn(LAYERS, *shape, 4, BINS + 1, generator=generator),
            "proposal_logits": torch.randn(*shape, CLASSES, generator=generator),
            "proposal_boxes": boxes(*shape, generator=generator),
        }
        for leaf in self.leaves.values():
            leaf.requires_grad_()
        self.initial = boxes(*shape, generator=generator)
        self.targets = [targets(number, generator) for number in objects]
        self.count = float(max(1, sum(objects)))
        self.bins = Bins(bin_offsets(BINS, bound=CONFIG.up, scale=CONFIG.reg_scale), CONFIG.reg_scale)

    @property
    def queries(self) -> Queries:
        return Queries(self.leaves["logits"], self.leaves["boxes"], self.leaves["edges"], self.initial)

    @property
    def proposals(self) -> tuple[Tensor, Tensor]:
        return self.leaves["proposal_logits"], self.leaves["proposal_boxes"]

    def losses(self) -> dict[str, Tensor]:
        return detection_losses(self.queries, self.proposals, self.targets, bins=self.bins, count=self.count)

    def library_targets(self) -> list[dict[str, Tensor]]:
        return [{"class_labels": one.labels, "boxes": one.boxes} for one in self.targets]

    def layers(self) -> list[dict[str, Tensor]]:
        """Outputs of the proposals, the initial boxes and the decoder layers, as the library's functions take them."""
        final = {"teacher_corners": self.leaves["edges"][-1].flatten(-2), "teacher_logits": self.leaves["logits"][-1]}
        plain = [{"logits": self.proposals[0], "pred_boxes": self.proposals[1]}]
        plain += [
            {"logits": logits, "pred_boxes": seen}
            for logits, seen in zip(self.leaves["logits"], self.leaves["boxes"], strict=True)
        ]
        return plain[:2] + [
            layer | final | {"pred_corners": edges.flatten(-2), "ref_points": self.initial}
            for layer, edges in zip(plain[2:], self.leaves["edges"], strict=True)
        ]

    def own_and_union(self) -> tuple[Any, Any]:
        logits = torch.cat([self.proposals[0][None], self.leaves["logits"]]).detach()
        seen = torch.cat([self.proposals[1][None], self.leaves["boxes"]]).detach()
        labels, wanted = [one.labels for one in self.targets], [one.boxes for one in self.targets]
        own = match_layers(logits, seen, labels=labels, objects=wanted)
        return own, unite(own, queries=QUERIES, objects=[len(one) for one in labels])

    def gradients(self, value: Tensor) -> dict[str, Tensor]:
        found = torch.autograd.grad(value, list(self.leaves.values()), allow_unused=True, retain_graph=True)
        return {
            name: torch.zeros_like(leaf) if grad is None else grad
            for (name, leaf), grad in zip(self.leaves.items(), found, strict=True)
        }


def same(case: Case, mine: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(mine, other, **CLOSE)
    assert float(mine.detach()) != 0
    for (name, a), b in zip(case.gradients(mine).items(), case.gradients(other).values(), strict=True):
        torch.testing.assert_close(a, b, **CLOSE, msg=lambda text, name=name: f"gradient of {name}: {text}")


def library(case: Case, term: str, function: str) -> Tensor:
    """Sum of a term over layers by the library's function: the union's matches for boxes, a layer's own for classes."""
    loss = DFineLoss(CONFIG)
    own, union = case.own_and_union()
    matched = sum(len(query) for query, _ in union)
    total = torch.zeros(())
    for layer, matches in zip(case.layers(), own, strict=True):
        if function == "loss_labels_vfl":
            total = total + loss.loss_labels_vfl(layer, case.library_targets(), matches, case.count)[term]
        else:
            total = total + getattr(loss, function)(layer, case.library_targets(), union, matched).get(term, 0)
    return total


@pytest.mark.parametrize(
    ("mine", "term", "function"),
    [
        ("vfl", "loss_vfl", "loss_labels_vfl"),
        ("l1", "loss_bbox", "loss_boxes"),
        ("giou", "loss_giou", "loss_boxes"),
        ("fgl", "loss_fgl", "loss_local"),
        ("ddf", "loss_ddf", "loss_local"),
    ],
)
@pytest.mark.parametrize("objects", [1, 4])
def test_each_term_of_an_image_is_that_of_the_library_with_these_matches(
    mine: str, term: str, function: str, objects: int
) -> None:
    case = Case(objects, seed=objects)
    same(case, case.losses()[mine], library(case, term, function))


def test_classes_of_several_images_are_those_of_the_library() -> None:
    case = Case(2, 0, 5)
    same(case, case.losses()["vfl"], library(case, "loss_vfl", "loss_labels_vfl"))


@pytest.mark.parametrize("term", ["vfl", "l1", "giou", "fgl", "ddf"])
def test_a_step_is_the_sum_of_its_images(term: str) -> None:
    case = Case(2, 0, 5, seed=3)
    parts = []
    for image, target in enumerate(case.targets):
        some = slice(image, image + 1)
        queries = Queries(
            case.queries.logits[:, some], case.queries.boxes[:, some], case.queries.edges[:, some], case.initial[some]
        )
        proposals = (case.proposals[0][some], case.proposals[1][some])
        parts.append(detection_losses(queries, proposals, [target], bins=case.bins, count=case.count)[term])
    same(case, case.losses()[term], torch.stack(parts).sum())


def dn_matches(case: Case) -> Any:
    """Two groups of positive and negative queries of each object, as the library lays them out."""
    (only,) = case.targets
    number = len(only.labels)
    positive = torch.cat([torch.arange(number) + 2 * number * group for group in range(2)])
    return [(positive, torch.arange(number).repeat(2))]


@pytest.mark.parametrize(
    ("mine", "term", "function"),
    [
        ("vfl", "loss_vfl", "loss_labels_vfl"),
        ("l1", "loss_bbox", "loss_boxes"),
        ("giou", "loss_giou", "loss_boxes"),
        ("fgl", "loss_fgl", "loss_local"),
        ("ddf", "loss_ddf", "loss_local"),
    ],
)
def test_each_term_of_denoising_queries_is_that_of_the_library(mine: str, term: str, function: str) -> None:
    case, loss = Case(3, seed=5), DFineLoss(CONFIG)
    matches = dn_matches(case)
    found = denoising_losses(case.queries, matches, case.targets, bins=case.bins, groups=2, count=case.count)[mine]
    number = case.count * 2
    layers = [getattr(loss, function)(one, case.library_targets(), matches, number) for one in case.layers()[1:]]
    same(case, found, torch.stack([one[term] for one in layers if term in one]).sum())


def test_the_match_of_a_layer_is_the_optimal_one() -> None:
    case = Case(4)
    own, _ = case.own_and_union()
    loss = DFineLoss(CONFIG)
    for layer, matches in zip(case.layers(), own, strict=True):
        (expected,) = loss.matcher(layer, case.library_targets())
        assert sorted(zip(*map(Tensor.tolist, matches[0]), strict=True)) == sorted(
            zip(*map(Tensor.tolist, expected), strict=True)
        )


def test_the_union_keeps_for_each_query_the_object_of_most_layers() -> None:
    def layer(*pairs: tuple[int, int]) -> Any:
        return [tuple(torch.tensor(side) for side in zip(*pairs, strict=True))]

    layers = [layer((0, 0), (1, 1)), layer((0, 1), (2, 0)), layer((0, 1), (1, 0))]
    ((query, found),) = unite(layers, queries=4, objects=[2])
    assert dict(zip(query.tolist(), found.tolist(), strict=True)) == {0: 1, 1: 0, 2: 0}
    ((query, found),) = unite([[(torch.empty(0, dtype=torch.long),) * 2]], queries=4, objects=[0])
    assert len(query) == len(found) == 0


def test_bins_and_targets_are_those_of_the_library() -> None:
    generator = torch.Generator().manual_seed(1)
    offsets = bin_offsets(BINS, bound=0.5, scale=4.0)
    torch.testing.assert_close(offsets, weighting_function(BINS, torch.tensor([0.5]), 4.0), **CLOSE)
    initial, wanted = boxes(200, generator=generator), boxes(200, generator=generator)
    corners = torch.cat([wanted[:, :2] - wanted[:, 2:] / 2, wanted[:, :2] + wanted[:, 2:] / 2], dim=-1)
    left, share = edge_targets(initial, corners, offsets, scale=4.0)
    label, right, rest = bbox2distance(initial, corners, BINS, 4.0, torch.tensor([0.5]))
    assert torch.equal(left.flatten(), label.long())
    torch.testing.assert_close(share.flatten(), right, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(1 - share.flatten(), rest, rtol=1e-4, atol=1e-4)


def test_the_library_misses_layers() -> None:
    """Facts about the library's loss that ours exists for; when this fails, look if it can be used instead."""
    case = Case(4)
    layers = {name: leaf.transpose(0, 1) for name, leaf in case.leaves.items() if name in ("logits", "boxes")}
    total, parts, _ = DFineForObjectDetectionLoss(
        layers["logits"][:, -1],
        case.library_targets(),
        torch.device("cpu"),
        layers["boxes"][:, -1],
        CONFIG,
        layers["logits"],
        layers["boxes"],
        enc_topk_logits=case.proposals[0],
        enc_topk_bboxes=case.proposals[1],
        predicted_corners=case.leaves["edges"].transpose(0, 1).flatten(-2),
        initial_reference_points=case.initial[:, None].expand(-1, LAYERS, -1, -1),
    )
    assert "loss_fgl" not in parts
    unused = [bool((one == 0).all()) for one in case.gradients(total)["logits"]]
    assert unused == [False, False, True, False], "the logits of the second-last layer get no gradient"
    ours = case.gradients(torch.stack(list(case.losses().values())).sum())
    assert not any((one == 0).all() for one in ours["logits"])


def plain_terms(case: Case) -> dict[str, float]:
    """All terms in loops over numbers, by the equations of the publication."""
    sums = dict.fromkeys(("vfl", "l1", "giou", "fgl", "ddf"), 0.0)
    layers = [{name: value.detach().double().numpy() for name, value in one.items()} for one in case.layers()]
    offsets = case.bins.offsets.double().numpy()
    for image, target in enumerate(case.targets):
        labels, wanted = target.labels.numpy(), target.boxes.double().numpy()
        number = len(labels)
        own = [_match(one["logits"][image], one["pred_boxes"][image], labels, wanted) for one in layers]
        union = _majority(own)
        for layer, matches in zip(layers, own, strict=True):
            logits, seen = layer["logits"][image], layer["pred_boxes"][image]
            for query in range(QUERIES):
                for label in range(CLASSES):
                    found = matches.get(query)
                    positive = found is not None and labels[found] == label
                    score = 1 / (1 + np.exp(-logits[query, label]))
                    goal = _iou(seen[query], wanted[found]) if positive else 0.0
                    weight = goal if positive else 0.75 * score**2
                    sums["vfl"] -= weight * (goal * np.log(score) + (1 - goal) * np.log(1 - score))
            for query, found in union.items():
                share = number / len(union)
                sums["l1"] += share * np.abs(seen[query] - wanted[found]).sum()
                sums["giou"] += share * (1 - _giou(seen[query], wanted[found]))
        final = layers[-1]
        confidence = 1 / (1 + np.exp(-final["logits"][image].max(-1)))
        for layer in layers[2:]:
            edges = layer["pred_corners"][image].reshape(QUERIES, 4, BINS + 1)
            last = final["pred_corners"][image].reshape(QUERIES, 4, BINS + 1)
            divergences: dict[bool, list[float]] = {True: [], False: []}
            for query in range(QUERIES):
                found = union.get(query)
                quality = confidence[query]
                if found is not None:
                    quality = _iou(layer["pred_boxes"][image, query], wanted[found])
                    for edge, distance in enumerate(_distances(case.initial[image, query].numpy(), wanted[found])):
                        log = np.log(_softmax(edges[query, edge]))
                        place = np.interp(distance, offsets, np.arange(BINS + 1))
                        left = min(int(place), BINS - 1)
                        loss = -log[left] * (left + 1 - place) - log[left + 1] * (place - left)
                        sums["fgl"] += number / len(union) * quality * loss
                a, b = _softmax(last[query] / 5), _softmax(edges[query] / 5)
                divergences[found is not None].append(25 * quality * (a * np.log(a / b)).sum(-1).mean())
            if layer is not final and number:
                roots = {key: np.sqrt(len(values)) for key, values in divergences.items()}
                mean = sum(roots[key] * np.mean(values) for key, values in divergences.items() if values)
                sums["ddf"] += number * mean / sum(roots.values())
    return {term: value / case.count for term, value in sums.items()}


def test_all_terms_are_those_of_the_publication() -> None:
    case = Case(2, 0, 5, seed=7)
    expected = plain_terms(case)
    for term, value in case.losses().items():
        assert float(value.detach()) == pytest.approx(expected[term], rel=2e-5), term


def test_gradients_are_those_of_the_losses() -> None:
    """Finite differences; matches and the weights by IoU and confidence are constants of a step."""
    case = Case(3, seed=11)
    total: Callable[[], Tensor] = lambda: sum(case.losses()[term] for term in ("vfl", "l1"))  # noqa: E731
    gradient = case.gradients(total())["logits"]
    leaf, index = case.leaves["logits"], (2, 0, 3, 1)
    with torch.no_grad():
        values = []
        for step in (-1e-2, 1e-2):
            leaf[index] += step
            values.append(float(total().detach()))
            leaf[index] -= step
    assert (values[1] - values[0]) / 2e-2 == pytest.approx(_with_weight(case, gradient[index], index), rel=0.02)


def _with_weight(case: Case, gradient: Tensor, index: tuple[int, ...]) -> float:
    """Add the change of the focal weight of a background logit, which has no gradient."""
    logit = case.leaves["logits"][index].detach()
    score = logit.sigmoid()
    change = 0.75 * 2 * score**2 * (1 - score) * torch.nn.functional.softplus(logit)
    return float(gradient + change / case.count)


def test_queries_on_ignored_regions_are_not_background() -> None:
    case = Case(0)
    plain = case.losses()["vfl"]
    whole = torch.tensor([[0.5, 0.5, 1.0, 1.0]])
    case.targets[0] = Targets(
        case.targets[0].labels,
        case.targets[0].boxes,
        case.targets[0].scores,
        ignored_labels=torch.tensor([1]),
        ignored_boxes=whole,
        ignored_crowds=torch.tensor([True]),
    )
    crowd = case.losses()["vfl"]
    gradient = case.gradients(crowd)["logits"]
    assert crowd < plain
    assert (gradient[..., 1] == 0).all()
    assert (gradient[..., [0, 2]] != 0).all()
    case.targets[0] = Targets(
        *(getattr(case.targets[0], name) for name in ("labels", "boxes", "scores", "ignored_labels", "ignored_boxes")),
        ignored_crowds=torch.tensor([False]),
    )
    assert case.losses()["vfl"] == plain, "boxes are much smaller than the ignored one: another object"


def test_an_unsure_label_wants_less_confidence() -> None:
    case = Case(3)
    case.targets = [Targets(**(vars(one) | {"scores": one.scores * 0.5})) for one in case.targets]
    own, _ = case.own_and_union()
    gradient = case.gradients(case.losses()["vfl"])["logits"][-1, 0]
    logits, seen = case.leaves["logits"][-1, 0].detach(), case.leaves["boxes"][-1, 0].detach().double().numpy()
    for query, found in zip(*map(Tensor.tolist, own[-1][0]), strict=True):
        label = int(case.targets[0].labels[found])
        goal = 0.5 * _iou(seen[query], case.targets[0].boxes[found].double().numpy())
        expected = goal * (float(logits[query, label].sigmoid()) - goal) / case.count
        assert float(gradient[query, label]) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def _softmax(values: Any) -> Any:
    powers = np.exp(values - values.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _corners(box: Any) -> Any:
    return np.concatenate([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2])


def _overlap(a: Any, b: Any) -> tuple[float, float, float]:
    a, b = _corners(a), _corners(b)
    inner = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    outer = np.prod(np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2]))
    return inner, np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inner, outer


def _iou(a: Any, b: Any) -> float:
    inner, union, _ = _overlap(a, b)
    return inner / union


def _giou(a: Any, b: Any) -> float:
    inner, union, outer = _overlap(a, b)
    return inner / union - (outer - union) / outer


def _distances(initial: Any, wanted: Any) -> Any:
    corners = _corners(wanted)
    raw = np.concatenate([initial[:2] - corners[:2], corners[2:] - initial[:2]])
    return raw / (np.tile(initial[2:], 2) / CONFIG.reg_scale) - 0.5 * CONFIG.reg_scale


def _match(logits: Any, seen: Any, labels: Any, wanted: Any) -> dict[int, int]:
    costs = np.zeros((QUERIES, len(labels)))
    for query in range(QUERIES):
        for found, label in enumerate(labels):
            score = 1 / (1 + np.exp(-logits[query, label]))
            focal = 0.25 * (1 - score) ** 2 * -np.log(score) - 0.75 * score**2 * -np.log(1 - score)
            costs[query, found] = 2 * focal + 5 * np.abs(seen[query] - wanted[found]).sum()
            costs[query, found] -= 2 * _giou(seen[query], wanted[found])
    return dict(zip(*(side.tolist() for side in linear_sum_assignment(costs)), strict=True))


def _majority(layers: list[dict[int, int]]) -> dict[int, int]:
    votes: dict[int, dict[int, int]] = {}
    for layer in layers:
        for query, found in layer.items():
            counts = votes.setdefault(query, {})
            counts[found] = counts.get(found, 0) + 1
    return {query: min(counts, key=lambda found: (-counts[found], found)) for query, counts in votes.items()}

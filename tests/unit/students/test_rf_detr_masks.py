"""Masks of RF-DETR: each term and the matching against the library's, bases with and without masks, exported masks.

The library mixes masks with zeros beyond the outermost centres of cells; here it gets the authors' padding. It draws
the points of a layer in the same order, so from the same seed they are the same.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from artifacts import artifact_of, assert_same, predictions, scene
from pycocotools import mask as coco_mask
from random_targets import CLASSES, boxes, targets
from shapes import SAMPLE, image_sample
from tiny_student import learn_one_image, rf_detr_settings
from torch import Tensor
from transformers import RfDetrForInstanceSegmentation
from transformers.loss import loss_rf_detr as library

from engine.dataset.mask_targets import IGNORED
from engine.dataset.types import Frame, Sample
from engine.models.model import Origin
from engine.registry import StudentName
from engine.spec import ArtifactFormat
from engine.students import load_student
from engine.students.matching import match_layers
from engine.students.rf_detr.criterion import Masks, detection_losses
from engine.students.rf_detr.layer_masks import LayerMasks, cells_at, values_at
from engine.students.rf_detr.mask_losses import mask_costs, mask_losses, pair_costs, unsure_points
from engine.students.rf_detr.model import RfDetr
from engine.students.rf_detr.sizes import random_config, sizes_of
from engine.students.targets import Targets

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
LAYERS, GROUPS, QUERIES, GRID = 3, 2, 7, (16, 28)
MASK_TERMS = {"mask_bce": "loss_mask_ce", "mask_dice": "loss_mask_dice"}
SIDES = (128, 128)


@pytest.fixture
def authors_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = F.grid_sample

    def padded(*arguments: Any, **options: Any) -> Tensor:
        return sample(*arguments, **{"padding_mode": "border", **options})

    monkeypatch.setattr("torch.nn.functional.grid_sample", padded)


def student(seed: int = 0, **changes: Any) -> RfDetr:
    torch.manual_seed(seed)
    return RfDetr.load(None, classes=("disc", "triangle"), settings=rf_detr_settings(**{"masks": True} | changes))


def save(one: RfDetr, folder: Path) -> Path:
    one.save(folder, Origin("random", "0" * 64, {}, one.classes, {}, one.settings, Frame.UPRIGHT))
    return folder


class Case:
    """Random predictions, with gradient, of the proposals and two decoder layers, for images with some objects."""

    def __init__(self, *objects: int) -> None:
        generator = torch.Generator().manual_seed(1)
        shape = (LAYERS, len(objects), GROUPS * QUERIES)
        self.logits = torch.randn(*shape, CLASSES, generator=generator)
        self.boxes = boxes(*shape, generator=generator)
        self.features = torch.randn(LAYERS, len(objects), 5, *GRID, generator=generator).requires_grad_()
        self.embedded = torch.randn(*shape, 5, generator=generator).requires_grad_()
        self.bias = torch.full((1,), 0.3).requires_grad_()
        self.targets = [self.with_masks(targets(number, generator), generator) for number in objects]

    @staticmethod
    def with_masks(one: Targets, generator: torch.Generator) -> Targets:
        return replace(one, masks=torch.rand(len(one.labels), *GRID, generator=generator))

    @property
    def masks(self) -> LayerMasks:
        return LayerMasks(list(self.features), self.embedded, self.bias)

    @property
    def wanted(self) -> list[Tensor]:
        return [one.masks for one in self.targets if one.masks is not None]

    def predicted(self, layer: int) -> Tensor:
        """All masks (B, Q, h, w) of a layer, as the library has them."""
        return torch.einsum("bqc,bchw->bqhw", self.embedded[layer], self.features[layer]) + self.bias

    def known(self) -> list[dict[str, Any]]:
        return [{"class_labels": one.labels, "boxes": one.boxes, "masks": one.masks} for one in self.targets]


MATCHES = [
    (torch.tensor([3, 0, 9, 12]), torch.tensor([1, 0, 0, 1])),
    (torch.tensor([5, 6, 1, 7, 10, 13]), torch.tensor([0, 2, 1, 2, 0, 1])),
]


@pytest.mark.usefixtures("authors_padding")
@pytest.mark.parametrize("term", MASK_TERMS)
def test_each_term_is_that_of_the_library(term: str) -> None:
    case = Case(2, 3)
    criterion = library.RfDetrImageLoss(None, CLASSES, 0.25, ["masks"], GROUPS, mask_point_sample_ratio=16)
    for layer in range(LAYERS):
        torch.manual_seed(layer)
        own = mask_losses(case.masks, layer, MATCHES, case.wanted)[term]
        torch.manual_seed(layer)
        found = criterion.loss_masks({"pred_masks": case.predicted(layer)}, case.known(), MATCHES, 1)
        other = found[MASK_TERMS[term]]
        torch.testing.assert_close(own, other, **CLOSE)
        leaves = (case.features, case.embedded, case.bias)
        pairs = (torch.autograd.grad(value, leaves, retain_graph=True) for value in (own, other))
        for mine, its in zip(*pairs, strict=True):
            assert float(mine.abs().sum()) > 0
            torch.testing.assert_close(mine, its, **CLOSE)


def test_the_costs_are_those_of_the_library() -> None:
    generator = torch.Generator().manual_seed(2)
    logits, wanted = 3 * torch.randn(9, 40, generator=generator), torch.rand(4, 40, generator=generator)
    expected = 5 * library.pair_wise_sigmoid_cross_entropy_loss(logits, wanted)
    expected += 3 * library.pair_wise_dice_loss(logits, wanted)
    torch.testing.assert_close(pair_costs(logits, wanted, (5.0, 3.0)), expected, **CLOSE)


@pytest.mark.usefixtures("authors_padding")
def test_the_matches_are_those_of_the_library_at_as_many_points() -> None:
    case = Case(2, 3)
    # The library counts B * Q * 4 numbers of boxes where the mask has h * w cells.
    ratio = 2 * GROUPS * QUERIES * 4 // (GRID[0] * GRID[1] // 16)
    matcher = library.RfDetrHungarianMatcher(2, 5, 2, ratio, 5, 5)
    changed = 0
    for layer in range(LAYERS):
        torch.manual_seed(layer)
        costs = mask_costs(case.masks, layer, case.wanted, weights=(5.0, 5.0))
        logits, seen = case.logits[layer, :, :QUERIES][None], case.boxes[layer, :, :QUERIES][None]
        known = {"labels": [one.labels for one in case.targets], "objects": [one.boxes for one in case.targets]}
        (own,) = match_layers(logits, seen, **known, extra=lambda _, image, all=costs: all[image][:QUERIES])
        torch.manual_seed(layer)
        outputs = {"logits": case.logits[layer], "pred_boxes": case.boxes[layer], "pred_masks": case.predicted(layer)}
        its = matcher(outputs, case.known(), GROUPS)
        for (query, found), (other_query, other_found) in zip(own, its, strict=True):
            first = other_query < QUERIES
            assert dict(zip(query.tolist(), found.tolist(), strict=True)) == dict(
                zip(other_query[first].tolist(), other_found[first].tolist(), strict=True)
            )
        (without,) = match_layers(logits, seen, **known)
        changed += any(not torch.equal(one[0], two[0]) for one, two in zip(own, without, strict=True))
    assert changed, "masks decide some matches"


def test_all_layers_and_groups_learn_masks() -> None:
    case = Case(2, 3)

    def losses(masks: Masks | None) -> dict[str, Tensor]:
        return detection_losses(case.logits, case.boxes, case.targets, groups=GROUPS, count=5, masks=masks)

    found = losses(Masks(case.masks, (5.0, 5.0)))
    assert losses(None).keys() == found.keys() - MASK_TERMS.keys()
    (gradient,) = torch.autograd.grad(found["mask_bce"], case.embedded)
    learned = gradient.abs().sum(-1).unflatten(-1, (GROUPS, QUERIES)) > 0
    assert (learned.sum(-1) == torch.tensor([2, 3])[None, :, None]).all()


def test_masks_reach_the_edge_of_the_image_unlike_the_librarys() -> None:
    corner, maps = torch.tensor([[[0.0, 1.0]]]), torch.full((1, 1, *GRID), 8.0)
    assert float(values_at(maps, corner)) == 8
    assert float(library.sample_point(maps, corner, align_corners=False)) == 2


def test_a_point_has_the_share_of_its_cell() -> None:
    points = torch.rand(1, 200, 2, generator=torch.Generator().manual_seed(0))
    cells = torch.arange(GRID[0] * GRID[1], dtype=torch.float32).reshape(1, 1, *GRID)
    nearest = library.sample_point(cells, points, align_corners=False, mode="nearest")[0, 0]
    torch.testing.assert_close(cells_at(points, GRID)[0].float(), nearest)
    assert cells_at(torch.tensor([[1.0, 1.0]]), GRID).tolist() == [GRID[0] * GRID[1] - 1]


def test_points_are_unsure_and_not_on_ignored_cells() -> None:
    logits = torch.arange(GRID[1], dtype=torch.float32).expand(2, *GRID) - 10.0

    def targets_at(points: Tensor) -> Tensor:
        on_the_left = points[..., 0] * GRID[1] < 10
        return torch.where(on_the_left, IGNORED, 1.0)

    torch.manual_seed(0)
    points = unsure_points(logits, targets_at)
    assert points.shape == (2, 28, 2)
    chosen = points[:, :21, 0] * GRID[1]
    assert (chosen >= 10).all()
    assert float(chosen.max()) < 22, "the nearest ones to the outline"


@pytest.mark.parametrize("wrong", [0.0, 1.0])
def test_ignored_cells_count_in_neither_loss_nor_cost(wrong: float) -> None:
    generator = torch.Generator().manual_seed(4)
    logits, wanted = torch.randn(3, 40, generator=generator), torch.rand(2, 40, generator=generator)
    ignored = wanted.clone()
    ignored[:, 25:] = IGNORED
    whole, part = wanted[:, :25], pair_costs(logits, ignored, (1.0, 1.0))
    torch.testing.assert_close(part, pair_costs(logits[:, :25], whole, (1.0, 1.0)), **CLOSE)

    case = Case(1)
    (masks,) = case.wanted
    masks[:] = 1
    masks[:, :8] = IGNORED
    certain = torch.full((1, 1, 1, *GRID), 30.0)
    certain[..., :7, :] = 60 * wrong - 30
    found = LayerMasks(list(certain), torch.ones(1, 1, 1, 1), torch.zeros(1))
    torch.manual_seed(0)
    losses = mask_losses(found, 0, [(torch.tensor([0]), torch.tensor([0]))], [masks])
    assert float(losses["mask_bce"]) < 1e-3
    assert float(losses["mask_dice"]) < 1e-3


def test_objects_without_a_mask_train_boxes_alone() -> None:
    case = Case(2, 0)
    case.wanted[0][1] = IGNORED
    torch.manual_seed(0)
    costs = mask_costs(case.masks, 0, case.wanted, weights=(5.0, 5.0))
    assert costs[0][:, 0].all()
    assert not costs[0][:, 1].any()
    nothing = (torch.empty(0, dtype=torch.int64),) * 2
    for matches in ([(torch.tensor([3]), torch.tensor([1])), nothing], [nothing, nothing]):
        losses = mask_losses(case.masks, 0, matches, case.wanted)
        assert float(losses["mask_bce"]) == float(losses["mask_dice"]) == 0


def test_factors_give_the_masks_of_the_library_and_proposals_use_projected_features() -> None:
    one = student()
    model, pixels = one.model, torch.from_numpy(one.transform.image(SAMPLE.image))[None]
    with torch.no_grad():
        outputs = model.model.model(pixels)
        masks = LayerMasks.of(model, outputs, SIDES)
        features, hidden = outputs.backbone_features, outputs.intermediate_hidden_states
        decoded = model.segmentation_head(features, hidden, SIDES)
        for layer, expected in enumerate(decoded, start=1):
            own = masks.logits(layer, 0, torch.arange(60))
            torch.testing.assert_close(own, expected[0], **CLOSE)
        torch.testing.assert_close(model(pixels).pred_masks[0], own, **CLOSE)
        projected = model.spatial_features_proj(F.interpolate(features, (32, 32), mode="bilinear"))
        proposals = model.get_mask_logits(outputs.enc_outputs_class, projected)
        torch.testing.assert_close(masks.logits(0, 0, torch.arange(60)), proposals[0], **CLOSE)
        points = torch.rand(9, 2)
        at = masks.logits_at(0, 0, points)
        torch.testing.assert_close(at, values_at(proposals, points[None])[0], **CLOSE)


def test_gradients_reach_the_head_and_the_backbone() -> None:
    one = student(classification_weight=0, l1_weight=0, giou_weight=0)
    one.begin_training(one.settings)
    one.set_training(True)
    one.loss(one.collate([one.example(SAMPLE, np.random.default_rng(0))]), count=2.0)["loss"].backward()
    touched = {name for name, p in one.model.named_parameters() if p.grad is not None and p.grad.any()}
    head = {name for name, _ in one.model.named_parameters() if not name.startswith("model.")}
    assert head <= touched
    assert any(name.startswith("model.model.backbone.backbone.") for name in touched)
    assert {one.rate_share(name) for name in touched} == {1.0}
    slow = one.settings.model_copy(update={"backbone_rate": 0.1})
    one.settings = slow
    assert {name for name in touched if one.rate_share(name) == 0.1} == {
        name for name in touched if name.startswith("model.model.backbone.backbone.")
    }


def test_it_learns_the_masks_of_one_image() -> None:
    one = student(ema_decay=0.5)
    before = _shared(one)
    learn_one_image(one, SAMPLE, 60)
    assert _shared(one) > max(0.5, before)


def _shared(one: RfDetr) -> float:
    """Mean over the objects of the largest IoU with one of the ten best masks."""
    (found,) = one.predict([SAMPLE])
    assert found.masks is not None
    assert SAMPLE.masks is not None
    wanted = [coco_mask.encode(np.asfortranarray(one.astype(np.uint8))) for one in SAMPLE.masks]
    return float(coco_mask.iou(found.masks[:10], wanted, [0, 0]).max(0).mean())


def test_only_the_outline_of_a_teachers_mask_is_ignored() -> None:
    human, teacher = (
        student().example(image_sample(score=score), np.random.default_rng(0))["masks"] for score in (1.0, 0.9)
    )
    assert human.shape == (2, 32, 32)
    assert (human >= 0).all()
    assert 0 < float((teacher == IGNORED).float().mean()) < 0.5


def test_predictions_have_a_mask_inside_each_box() -> None:
    (found,) = student().predict([SAMPLE])
    assert found.masks is not None
    assert len(found.masks) == len(found) > 0
    assert found.masks[0]["size"] == [60, 90]
    assert student(seed=1, masks=False).predict([SAMPLE])[0].masks is None


@pytest.mark.parametrize(("size", "millions"), [("nano", 33.6), ("small", 33.7), ("medium", 35.7)])
def test_sizes_with_masks_have_the_published_parameters(size: str, millions: float) -> None:
    with torch.device("meta"):
        model: Any = RfDetrForInstanceSegmentation(random_config(sizes_of(masks=True)[size], ["a"] * 90))
    assert sum(one.numel() for one in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    (base,) = [one for one in StudentName.RF_DETR.traits.published if one.name == f"Roboflow/rf-detr-seg-{size}"]
    assert (base.parameters, base.size) == (millions * 1e6, size)


def test_loaded_from_its_folder_it_predicts_the_same_masks(tmp_path: Path) -> None:
    one = student()
    loaded = load_student(save(one, tmp_path), device="cpu")
    (before,), (after,) = one.predict([SAMPLE]), loaded.predict([SAMPLE])
    assert before.masks == after.masks
    np.testing.assert_array_equal(before.scores, after.scores)


def test_transformers_alone_gives_the_same_masks(tmp_path: Path) -> None:
    one = student()
    model: Any = RfDetrForInstanceSegmentation.from_pretrained(save(one, tmp_path))
    pixels = torch.from_numpy(one.transform.image(SAMPLE.image))[None]
    with torch.no_grad():
        torch.testing.assert_close(model(pixels).pred_masks, one.model(pixels).pred_masks)


def test_a_base_without_masks_keeps_its_weights_and_gets_a_head(tmp_path: Path) -> None:
    boxes = student(masks=False)
    loaded = RfDetr.load(save(boxes, tmp_path), classes=boxes.classes, settings=rf_detr_settings(size=None, masks=True))
    own, new = boxes.result_tensors(), loaded.result_tensors()
    assert all(torch.equal(own[name], new[f"model.{name}"]) for name in own)
    assert 0.05 < float(new["spatial_features_proj.weight"].detach().std()) < 0.1, "as random as in a new student"
    (found,) = loaded.predict([SAMPLE])
    assert found.masks is not None
    without = RfDetr.load(save(loaded, tmp_path / "masks"), classes=boxes.classes, settings=rf_detr_settings(size=None))
    assert without.result_tensors().keys() == own.keys()
    assert all(torch.equal(own[name], without.result_tensors()[name]) for name in own)


def test_a_base_with_masks_of_other_classes_keeps_all_but_its_heads(tmp_path: Path) -> None:
    one = student()
    other = RfDetr.load(save(one, tmp_path), classes=("a", "b", "c"), settings=rf_detr_settings(size=None, masks=True))
    own, new = one.result_tensors(), other.result_tensors()
    changed = {name for name in own if own[name].shape != new[name].shape or not torch.equal(own[name], new[name])}
    assert changed
    assert all("class_embed" in name for name in changed)


@pytest.fixture(scope="module")
def exported() -> RfDetr:
    """A student whose every weight is random: with its own initialization queries tie."""
    one = student()
    for parameter in one.model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return one


@pytest.mark.parametrize("kind", [ArtifactFormat.ONNX, ArtifactFormat.OPENVINO])
def test_exported_masks_are_those_of_torch(exported: RfDetr, tmp_path: Path, kind: ArtifactFormat) -> None:
    pytest.importorskip("onnxruntime")
    images = [scene(0, SIDES), scene(9, (60, 50))]
    artifact = artifact_of(exported, tmp_path, [SIDES], kind=kind)
    assert "masks (1, K, h, w)" in artifact.card.outputs
    for image, *pair in zip(images, predictions(artifact, images), predictions(exported, images), strict=True):
        assert_same(*pair, size=image.shape[:2])
        best = [coco_mask.decode(one.masks[:10]) for one in pair]
        assert best[1].any()
        assert (best[0] != best[1]).mean() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "setting", "change"),
    [
        (ArtifactFormat.ONNX_FP16, "fp16", 0.02),
        (ArtifactFormat.OPENVINO_FP16, "fp16 weights", 0.02),
        (ArtifactFormat.ONNX_INT8, "int8", 0.2),
        (ArtifactFormat.OPENVINO_INT8, "int8", 0.2),
    ],
)
def test_smaller_files_keep_their_masks(
    exported: RfDetr, tmp_path: Path, kind: ArtifactFormat, setting: str, change: float
) -> None:
    pytest.importorskip("onnxruntime")
    images = [scene(seed, SIDES) for seed in range(8)]
    artifact = artifact_of(exported, tmp_path, [SIDES], kind=kind, setting=setting, images=images)
    (found,), (expected,) = predictions(artifact, images[:1]), predictions(exported, images[:1])
    assert float(np.abs(found.scores - expected.scores).max()) < change
    assert found.masks is not None
    assert len(found.masks) == len(found)


def test_an_image_without_objects_has_no_mask_loss() -> None:
    one = student()
    losses = one.loss(one.collate([one.example(Sample.of(SAMPLE.image), np.random.default_rng(0))]), count=1.0)
    assert float(losses["mask_bce"]) == float(losses["mask_dice"]) == 0
    assert float(losses["ce"]) > 0

"""Masks of D-FINE: each term against a plain computation, targets, predictions, saving and loading."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from shapes import SAMPLE, image_sample
from tiny_student import student_settings
from torch import Tensor
from transformers import AutoModelForObjectDetection

from engine.dataset.images.preprocessing import Geometry, ScaledTransform
from engine.dataset.mask_targets import IGNORED, ignore_boundary, mask_targets
from engine.dataset.predicted_masks import masks_in_boxes
from engine.dataset.types import Frame, Sample
from engine.errors import BaseModelError
from engine.models.model import Origin
from engine.students import DFine, load_student
from engine.students.dfine.mask_head import MaskedDFine
from engine.students.dfine.mask_losses import mask_costs, mask_losses
from engine.students.dfine.sizes import random_config

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
GRID = (6, 8)


def student(seed: int = 0, **changes: Any) -> DFine:
    torch.manual_seed(seed)
    return DFine.load(None, classes=("disc", "triangle"), settings=student_settings(masks=True, **changes))


def save(one: DFine, folder: Path) -> Path:
    one.save(folder, Origin("random", "0" * 64, {}, one.classes, {}, one.settings, Frame.UPRIGHT))
    return folder


class Case:
    """Mask logits of one image, with gradient, and objects some of whose cells are ignored."""

    boxes = torch.tensor([[0.3, 0.4, 0.43, 0.51], [0.7, 0.6, 0.33, 0.47], [0.5, 0.5, 0.9, 0.9]])

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.logits = (2 * torch.randn(5, *GRID, generator=generator)).requires_grad_()
        self.masks = torch.rand(3, *GRID, generator=generator)
        self.masks[1, 2:4] = IGNORED
        self.masks[2] = IGNORED
        self.matches = [(torch.tensor([4, 0, 2]), torch.tensor([1, 0, 2]))]

    def losses(self) -> dict[str, Tensor]:
        return mask_losses(lambda image, query: self.logits[query], self.matches, [self.masks], [self.boxes])

    def cells(self, found: int) -> list[tuple[int, int]]:
        """Cells of an object that count: known, and overlapping its box."""
        x, y, width, height = self.boxes[found].tolist()
        return [
            (row, column)
            for row in range(GRID[0])
            for column in range(GRID[1])
            if self.masks[found, row, column] >= 0
            and (row + 1) / GRID[0] > y - height / 2
            and row / GRID[0] < y + height / 2
            and (column + 1) / GRID[1] > x - width / 2
            and column / GRID[1] < x + width / 2
        ]

    def plain(self, term: str) -> Tensor:
        total = torch.zeros(())
        for query, found in zip(*(one.tolist() for one in self.matches[0]), strict=True):
            cells = self.cells(found)
            if not cells:
                continue
            chance = [torch.sigmoid(self.logits[query][cell]) for cell in cells]
            wanted = [float(self.masks[found][cell]) for cell in cells]
            if term == "mask_bce":
                parts = [-t * p.log() - (1 - t) * (1 - p).log() for p, t in zip(chance, wanted, strict=True)]
                total = total + torch.stack(parts).mean()
            else:
                shared = torch.stack([p * t for p, t in zip(chance, wanted, strict=True)]).sum()
                total = total + 1 - 2 * shared / (torch.stack(chance).sum() + sum(wanted))
        return total


@pytest.mark.parametrize("term", ["mask_bce", "mask_dice"])
def test_each_term_is_the_plain_one_inside_the_box_without_ignored_cells(term: str) -> None:
    case = Case()
    mine, plain = case.losses()[term], case.plain(term)
    torch.testing.assert_close(mine, plain, **CLOSE)
    own, other = (torch.autograd.grad(value, case.logits, retain_graph=True)[0] for value in (mine, plain))
    torch.testing.assert_close(own, other, **CLOSE)
    assert float(own.abs().sum()) > 0


def test_matching_costs_are_dice_and_focal_cost_over_the_image() -> None:
    case = Case()
    costs = mask_costs(case.logits.detach(), case.masks)
    for query in range(5):
        for found in range(2):
            known = [(r, c) for r in range(GRID[0]) for c in range(GRID[1]) if case.masks[found, r, c] >= 0]
            pairs = [
                (float(case.logits[query][one].sigmoid().detach()), float(case.masks[found][one])) for one in known
            ]
            shared, area = sum(p * t for p, t in pairs), sum(p + t for p, t in pairs)
            focal = sum(
                -0.25 * t * (1 - p) ** 2 * math.log(p) - 0.75 * (1 - t) * p**2 * math.log(1 - p) for p, t in pairs
            )
            expected = 1 - 2 * shared / area + focal / (GRID[0] * GRID[1])
            assert float(costs[query, found]) == pytest.approx(expected, abs=1e-5)
    assert not costs[:, 2].any(), "an object without a mask is matched by its box and class"


def test_the_loss_of_a_batch_is_that_of_its_images_one_by_one() -> None:
    one = student(denoising=0, ema_decay=0)
    one.model.model.decoder.train()  # all layers predict, with the stored statistics of batch normalization
    examples = [one.example(each, np.random.default_rng(0)) for each in (SAMPLE, Sample.of(SAMPLE.image), SAMPLE)]
    parts = [one.loss(one.collate([example]), count=4.0) for example in examples]
    together = one.loss(one.collate(examples), count=4.0)
    for term in ("mask_bce", "mask_dice"):
        assert float(together[term]) == pytest.approx(float(sum(part[term] for part in parts)), rel=1e-4)
        assert float(parts[0][term]) > 0
        assert float(parts[1][term]) == 0


def test_denoising_queries_learn_masks() -> None:
    one = student(denoising=10)
    one.begin_training(one.settings)
    one.set_training(True)
    batch = one.collate([one.example(SAMPLE, np.random.default_rng(0))])
    torch.manual_seed(0)
    with_noise = one.loss(batch, count=2.0)["mask_bce"]
    one.model.config.num_denoising = 0
    without = one.loss(batch, count=2.0)["mask_bce"]
    assert float(with_noise) > 1.5 * float(without)


def test_gradients_reach_the_head_and_the_backbone() -> None:
    one = student(classification_weight=0, l1_weight=0, giou_weight=0, fgl_weight=0, ddf_weight=0)
    one.begin_training(one.settings)
    one.set_training(True)
    one.loss(one.collate([one.example(SAMPLE, np.random.default_rng(0))]), count=2.0)["loss"].backward()
    touched = {name.split(".")[0] for name, p in one.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert touched == {"mask_head", "model"}
    assert all(p.grad is not None and p.grad.any() for p in one.model.mask_head.parameters())


def test_targets_are_shares_of_cells() -> None:
    example = student().example(SAMPLE, np.random.default_rng(0))
    assert example["masks"].shape == (2, 16, 16)
    assert SAMPLE.masks is not None
    areas = SAMPLE.masks.mean((1, 2))
    np.testing.assert_allclose(example["masks"].mean((1, 2)).numpy(), areas, atol=1e-6)


def test_only_the_outline_of_a_teachers_mask_is_ignored() -> None:
    grid, plan = (15, 15), ScaledTransform(60, 60).plan(60, 90)
    human, teacher = (mask_targets(image_sample(score=score), plan, grid, boundary=1) for score in (1.0, 0.9))
    assert (human >= 0).all()
    ignored = teacher == IGNORED
    assert ignored.any()
    partly = (human > 0) & (human < 1)
    assert ignored[partly].mean() > 0.9, "cells that the outline crosses"
    np.testing.assert_array_equal(teacher[~ignored], (human >= 0.5)[~ignored])
    np.testing.assert_array_equal(mask_targets(image_sample(score=0.9), plan, grid, boundary=0), human)


def test_a_small_mask_of_a_teacher_is_kept_whole() -> None:
    cells = np.zeros((6, 6), np.float32)
    cells[2, 2:4] = 1
    np.testing.assert_array_equal(ignore_boundary(cells, 1), cells)
    cells[:, :3] = 1
    band = ignore_boundary(cells, 1)
    assert (band[:, 0] == 1).all(), "the edge of the image is no outline"


def test_an_object_without_a_mask_has_no_known_cell() -> None:
    assert SAMPLE.masks is not None
    sample = replace(SAMPLE, masks=SAMPLE.masks & np.array([True, False])[:, None, None])
    targets = mask_targets(sample, Geometry((60, 90), (64, 64), (64, 64)), (16, 16), boundary=1)
    assert (targets[1] == IGNORED).all()
    assert (
        mask_targets(Sample.of(SAMPLE.image, [[0, 0, 9, 9]]), ScaledTransform(8, 8).plan(9, 9), (2, 2), boundary=1) < 0
    ).all()


@pytest.mark.parametrize("size", [(48, 80), (37, 53), (5, 3)])
def test_predicted_masks_are_the_scaled_logits_inside_boxes(size: tuple[int, int]) -> None:
    logits = torch.randn(4, 6, 10, generator=torch.Generator().manual_seed(0))
    height, width = size
    boxes = np.array(
        [[0, 0, width, height], [1.2, 0.5, width - 0.5, height / 2], [0, 0, 1, 1], [2, 2, 2, 2]], np.float32
    )
    found = coco_mask.decode(masks_in_boxes(logits.numpy(), boxes, size)).transpose(2, 0, 1)
    scaled = F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0].numpy() > 0
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    for mask, whole, (left, top, right, bottom) in zip(found, scaled, boxes, strict=True):
        inside = (rows + 1 > top) & (rows < bottom) & (columns + 1 > left) & (columns < right)
        np.testing.assert_array_equal(mask.astype(bool), whole & inside)


def test_predictions_have_a_mask_inside_each_box() -> None:
    (found,) = student().predict([SAMPLE])
    assert found.masks is not None
    assert len(found.masks) == len(found) > 0
    assert found.masks[0]["size"] == [60, 90]
    before = student()
    with before.untrained():
        (nothing,) = before.predict([SAMPLE])
    assert nothing.masks == []


def test_loaded_from_its_folder_it_predicts_the_same_masks(tmp_path: Path) -> None:
    one = student()
    loaded = load_student(save(one, tmp_path), device="cpu")
    (before,), (after,) = one.predict([SAMPLE]), loaded.predict([SAMPLE])
    assert before.masks == after.masks
    np.testing.assert_array_equal(before.scores, after.scores)


def test_transformers_alone_finds_the_boxes_of_its_folder(tmp_path: Path) -> None:
    one = student()
    model = AutoModelForObjectDetection.from_pretrained(save(one, tmp_path))
    pixels = torch.from_numpy(one.transform.image(SAMPLE.image))[None]
    with torch.no_grad():
        torch.testing.assert_close(model(pixels).pred_boxes, one.model(pixels).pred_boxes)


def test_a_base_without_masks_keeps_its_weights_and_gets_a_head(tmp_path: Path) -> None:
    boxes = DFine.load(None, classes=("disc", "triangle"), settings=student_settings(masks=False))
    assert boxes.predict([SAMPLE])[0].masks is None
    torch.manual_seed(4)
    loaded = DFine.load(save(boxes, tmp_path), classes=boxes.classes, settings=student_settings(size=None, masks=True))
    own, new = boxes.result_tensors(), loaded.result_tensors()
    assert all(torch.equal(own[name], new[name]) for name in own)
    assert {name.split(".")[0] for name in new.keys() - own.keys()} == {"mask_head"}
    weights = new["mask_head.fuse.0.weight"]
    assert 0.02 < float(weights.detach().std()) < 0.1, "as random as in a new student"
    without = DFine.load(save(loaded, tmp_path / "masks"), classes=boxes.classes, settings=student_settings(size=None))
    assert without.result_tensors().keys() == own.keys()


def test_nano_takes_the_finest_features_from_its_backbone() -> None:
    one = student(size="nano", image_size=[256, 256], denoising=0, ema_decay=0)
    assert list(one.model.config.feat_strides) == [16, 32]
    (found,) = one.predict([SAMPLE])
    assert found.masks is not None
    with torch.no_grad():
        assert one.model(torch.zeros(1, 3, 256, 256)).pred_masks.shape[-2:] == (64, 64)


def test_strides_without_fine_features_are_refused() -> None:
    config = random_config("femto", ("a",), denoising=0)
    config.feat_strides = [4, 8, 16]
    with pytest.raises(
        BaseModelError, match=r"masks need features of stride 8, and this D-FINE has strides \[4, 8, 16\]"
    ):
        MaskedDFine(config)

from __future__ import annotations

import pytest
import torch
from tiny_sam import sam_settings
from torchvision.ops import sigmoid_focal_loss

from engine.teachers.sam.loss import dice_loss, focal_loss, mask_iou, sam_losses

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(4, 3, 16, 16, generator=GENERATOR)
TARGETS = (torch.rand(4, 16, 16, generator=GENERATOR) > 0.7).float()


def square(low: int, high: int, value: float = 1.0) -> torch.Tensor:
    target = torch.zeros(1, 16, 16)
    target[:, low:high, low:high] = value
    return target


def test_focal_loss_is_the_published_one_on_masks_of_zeros_and_ones() -> None:
    targets = TARGETS[:, None].expand_as(LOGITS)
    expected = sigmoid_focal_loss(LOGITS, targets, alpha=0.25, gamma=2).mean(dim=(2, 3))
    torch.testing.assert_close(focal_loss(LOGITS, TARGETS[:, None], alpha=0.25), expected)


def test_a_half_covered_cell_is_best_answered_by_a_half() -> None:
    half = torch.full((1, 1, 1, 1), 0.5)
    answers = torch.linspace(-3, 3, 61).reshape(-1, 1, 1, 1)
    best = focal_loss(answers, half).argmin()
    assert answers[best].sigmoid().item() == pytest.approx(0.5, abs=0.02)


def test_dice_loss_is_none_for_the_true_mask_and_almost_one_for_its_opposite() -> None:
    sure = (TARGETS[:, None] * 2 - 1) * 50
    assert dice_loss(sure, TARGETS[:, None]).max() < 1e-6
    assert dice_loss(-sure, TARGETS[:, None]).min() > 0.99


def test_iou_of_masks() -> None:
    logits = (square(0, 8) * 2 - 1)[:, None]
    assert mask_iou(logits, square(0, 8)[:, None]).item() == 1
    assert mask_iou(logits, square(4, 8)[:, None]).item() == pytest.approx(16 / 64)
    assert mask_iou(logits, square(8, 16)[:, None]).item() == 0
    assert mask_iou(logits, square(0, 8, value=0.4)[:, None]).item() == 1, "an object smaller than a cell has a mask"


def test_only_the_best_of_several_masks_learns_but_all_predicted_ious_do() -> None:
    good = (TARGETS * 2 - 1) * 2
    logits = torch.stack([LOGITS[:, 0], good, LOGITS[:, 1]], dim=1).requires_grad_()
    ious = torch.full((4, 3), 0.5, requires_grad=True)
    sam_losses(logits, ious, TARGETS, sam_settings())["loss"].backward()
    assert logits.grad is not None
    assert ious.grad is not None
    assert logits.grad[:, 1].abs().sum() > 0
    assert logits.grad[:, [0, 2]].abs().sum() == 0
    assert (ious.grad != 0).all()


def test_predicted_ious_are_pulled_to_the_true_ones() -> None:
    ious = torch.zeros(4, 3, requires_grad=True)
    true = mask_iou(LOGITS, TARGETS[:, None])
    assert sam_losses(LOGITS, true, TARGETS, sam_settings())["iou"] == 0
    sam_losses(LOGITS, ious, TARGETS, sam_settings())["loss"].backward()
    torch.testing.assert_close(ious.grad, -2 * true / 3)


def test_the_total_is_the_weighted_sum_over_all_prompts() -> None:
    settings = sam_settings(focal_weight=7, dice_weight=3, iou_weight=2)
    ious = torch.rand(4, 3, generator=GENERATOR)
    whole = sam_losses(LOGITS, ious, TARGETS, settings)
    torch.testing.assert_close(whole["loss"], 7 * whole["focal"] + 3 * whole["dice"] + 2 * whole["iou"])
    alone = [sam_losses(LOGITS[i : i + 1], ious[i : i + 1], TARGETS[i : i + 1], settings) for i in range(4)]
    for name, value in whole.items():
        torch.testing.assert_close(value, sum(part[name] for part in alone))


def test_the_loss_is_computed_in_32_bit() -> None:
    losses = sam_losses(LOGITS.bfloat16(), torch.zeros(4, 3).bfloat16(), TARGETS, sam_settings())
    assert {value.dtype for value in losses.values()} == {torch.float32}
    expected = sam_losses(LOGITS.bfloat16().float(), torch.zeros(4, 3), TARGETS, sam_settings())
    assert losses["loss"] == expected["loss"]

"""Suppression of duplicates: the same boxes as greedy NMS keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.models.box_geometry import to_corners
from engine.models.duplicates import suppress_duplicates
from engine.models.labeller import non_maximum_suppression


def crowd_of_boxes(seed: int, *, images: int = 2, boxes: int = 300, classes: int = 3):
    """Return scores, classes and centre boxes around few objects, as undertrained models give them."""
    torch.manual_seed(seed)
    objects = torch.rand(images, 12, 4) * torch.tensor([0.6, 0.6, 0.2, 0.2]) + torch.tensor([0.2, 0.2, 0.1, 0.1])
    picked = torch.randint(12, (images, boxes))
    near = objects.gather(1, picked[..., None].expand(-1, -1, 4)) * (1 + 0.03 * torch.randn(images, boxes, 4))
    scores = torch.rand(images, boxes).sort(dim=1, descending=True).values
    return scores, torch.randint(classes, (images, boxes)), near.clamp(min=0.01)


@pytest.mark.parametrize("limit", [0.5, 0.7, 0.9])
def test_the_same_boxes_are_kept_as_by_greedy_nms(limit: float) -> None:
    scores, classes, boxes = crowd_of_boxes(0)
    seen, labels, where = suppress_duplicates(scores, classes, boxes, limit=limit)
    assert (seen.diff(dim=1) <= 0).all()
    for i in range(len(scores)):
        edges = to_corners(boxes[i]).clamp(0, 1).numpy()
        kept = non_maximum_suppression(edges, classes[i].numpy(), iou=limit, same_box=1.0)
        assert 12 < len(kept) < 290
        left = seen[i] > 0
        assert int(left.sum()) == len(kept)
        torch.testing.assert_close(seen[i][left], scores[i][torch.from_numpy(kept)])
        assert (labels[i][left].numpy() == classes[i].numpy()[kept]).all()
        torch.testing.assert_close(where[i][left], boxes[i][torch.from_numpy(kept)])


def test_a_box_that_is_only_near_a_suppressed_one_is_kept() -> None:
    # Along a line, each box overlaps the next one by 60 % and the one after it by 33 %: every second one is kept.
    left = torch.arange(5) * 0.1
    boxes = torch.stack([left + 0.2, torch.full((5,), 0.5), torch.full((5,), 0.4), torch.full((5,), 0.4)], dim=-1)
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.5]])
    seen, _, _ = suppress_duplicates(scores, torch.zeros(1, 5, dtype=torch.long), boxes[None] * 0.5, limit=0.5)
    np.testing.assert_allclose(seen[0].numpy(), [0.9, 0.7, 0.5, 0, 0])


def test_boxes_of_two_classes_are_both_kept_and_limit_one_keeps_all() -> None:
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2]] * 3])
    scores, classes = torch.tensor([[0.9, 0.8, 0.7]]), torch.tensor([[0, 1, 0]])
    seen, labels, _ = suppress_duplicates(scores, classes, boxes, limit=0.7)
    np.testing.assert_allclose(seen[0].numpy(), [0.9, 0.8, 0])
    assert labels[0].tolist() == [0, 1, 0]
    assert suppress_duplicates(scores, classes, boxes, limit=1.0)[0] is scores

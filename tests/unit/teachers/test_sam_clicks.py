from __future__ import annotations

import pytest
import torch

from engine.teachers.sam.clicks import Clicks, correct

STRIDE = 4.0


def square(low: int, high: int) -> torch.Tensor:
    mask = torch.zeros(16, 16)
    mask[low:high, low:high] = 1
    return mask


def clicks(
    predicted: torch.Tensor, true: torch.Tensor, count: int = 2000, *, extent: tuple[float, float] = (16, 16)
) -> tuple[torch.Tensor, torch.Tensor]:
    """(count, 2) cells, column and row, and (count,) labels, of an image that covers ``extent`` rows and columns."""
    chances = (torch.arange(count) + 0.5) / count
    shape = (count, -1, -1)
    extents = torch.tensor(extent).expand(count, 2)
    found = correct(predicted.expand(shape) * 2 - 1, true.expand(shape), chances, extents=extents, stride=STRIDE)
    cells = (found.points[:, 0] + 0.5) / STRIDE - 0.5
    assert torch.equal(cells, cells.round()), "a click lies in the middle of a cell"
    return cells.long(), found.labels[:, 0]


def test_clicks_lie_where_the_answer_is_wrong_and_say_how() -> None:
    predicted, true = square(4, 10), square(6, 12)
    cells, labels = clicks(predicted, true)
    columns, rows = cells.unbind(-1)
    assert (predicted[rows, columns] != true[rows, columns]).all()
    assert torch.equal(labels, true[rows, columns].long())
    assert {0, 1} == set(labels.tolist())


def test_every_wrong_cell_is_clicked_about_as_often() -> None:
    cells, _ = clicks(square(4, 10), square(4, 12), count=40_000)
    wrong = int((square(4, 10) != square(4, 12)).sum())
    _, times = torch.unique(cells, dim=0, return_counts=True)
    assert len(times) == wrong
    assert times.max() < 6 * 40_000 / wrong


def test_nobody_clicks_beside_the_image() -> None:
    predicted = square(4, 6)
    predicted[12:, :] = predicted[:, 14:] = 1
    cells, _ = clicks(predicted, square(4, 8), extent=(11.5, 14))
    assert cells[:, 1].max() < 12
    assert cells[:, 0].max() < 14


def test_where_nothing_is_wrong_the_object_is_clicked() -> None:
    cells, labels = clicks(square(4, 10), square(4, 10))
    assert labels.all()
    assert square(4, 10)[cells[:, 1], cells[:, 0]].all()


def test_an_object_smaller_than_a_cell_is_clicked() -> None:
    cells, labels = clicks(torch.zeros(16, 16), 0.2 * square(7, 8), count=5)
    assert cells.tolist() == [[7, 7]] * 5
    assert labels.all()


def test_a_cell_that_changes_sides_changes_few_clicks() -> None:
    """So that rounding, which differs with how a batch is cut, changes next to nothing."""
    predicted = square(4, 10)
    other = predicted.clone()
    other[0, 0] = 1
    same = (clicks(predicted, square(6, 12))[0] == clicks(other, square(6, 12))[0]).all(-1)
    assert same.float().mean() > 0.9


def test_clicks_come_one_after_another() -> None:
    first = Clicks.on_objects(torch.tensor([[1.0, 2], [3, 4]]))
    both = first.then(Clicks(torch.tensor([[[5.0, 6]], [[7, 8]]]), torch.tensor([[0], [1]])))
    assert both.points.tolist() == [[[1, 2], [5, 6]], [[3, 4], [7, 8]]]
    assert both.labels.tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_the_ends_of_chance_are_clicks_too(chance: float) -> None:
    chances, extents = torch.tensor([chance]), torch.tensor([[16.0, 16.0]])
    found = correct(square(0, 4)[None], square(2, 6)[None], chances, extents=extents, stride=STRIDE)
    assert found.points.shape == (1, 1, 2)

"""Axes have round numbers and hold all of a curve."""

from __future__ import annotations

import itertools

import pytest
from loops import nonempty

from engine.evaluation.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, curve, nice_ticks


@pytest.mark.parametrize(
    ("low", "high"), [(0, 0.43), (0, 1e-5), (2.41, 2.43), (0, 123_456), (-3, 7), (0, 0), (0.2, 0.2)]
)
def test_ticks_are_few_even_and_hold_the_range(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert 3 <= len(ticks) <= 8
    assert ticks[0] <= low
    assert ticks[-1] >= high
    steps = [b - a for a, b in itertools.pairwise(ticks)]
    assert steps == pytest.approx([steps[0]] * len(steps))


@pytest.mark.parametrize(
    "points", [[(1.0, 0.5)], [(0.1, 3.0), (0.2, 900.0)], [(i / 7, 1 / (i + 1)) for i in range(200)]]
)
def test_every_point_lies_inside_the_axes(points: list[tuple[float, float]]) -> None:
    drawn = curve("loss", points)
    for pair in nonempty(drawn.points.split()):
        x, y = map(float, pair.split(","))
        assert LEFT <= x <= WIDTH - RIGHT
        assert TOP <= y <= HEIGHT - BOTTOM


def test_a_curve_is_reported_in_words() -> None:
    drawn = curve("AP", [(1, 0.2), (2, 0.4), (3, 0.3)], best=(2, 0.4), base=0.1, from_zero=True)
    assert drawn.summary == "AP: 0.2 at epoch 1, 0.3 at epoch 3, best 0.4 at epoch 2"
    assert drawn.y_ticks[0].label == "0"

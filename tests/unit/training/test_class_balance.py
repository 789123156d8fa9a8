"""Images of rare classes are shown more often, and no epoch gets longer by it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loops import nonempty

from engine.dataset.types import CocoAnnotation, CocoDataset, CocoImage
from engine.training.data.sampler import MOST_OFTEN, Steps, draw_images, repeat_factors


def _dataset(*images: set[int], classes: int, crowds: bool = False) -> CocoDataset:
    """One object a class in each image."""
    return CocoDataset(
        images=tuple(CocoImage(i, f"{i}.jpg", 10, 10) for i in range(len(images))),
        annotations=tuple(
            tuple(CocoAnnotation(c, c, (0, 0, 5, 5), 25, crowds) for c in sorted(shown)) for shown in images
        ),
        classes=tuple(str(i) for i in range(classes)),
        category_ids=tuple(range(1, classes + 1)),
    )


def test_classes_that_are_equally_rare_need_no_balance() -> None:
    assert repeat_factors(_dataset({0}, {1}, {2}, set(), classes=3), exponent=0.5) == ()


def test_nothing_is_balanced_where_it_was_not_asked_for() -> None:
    assert repeat_factors(_dataset(*[{0}] * 20, {1}, classes=2), exponent=0) == ()


def test_an_image_is_shown_as_often_as_its_rarest_class_wants() -> None:
    dataset = _dataset(*[{0}] * 16, *[{1}] * 16, {0, 2}, classes=3)  # medians: 17, 16, 1 images -> 16
    factors = repeat_factors(dataset, exponent=0.5)
    assert sum(factors) == pytest.approx(33)
    assert factors[-1] / factors[0] == pytest.approx(4.0)
    assert factors[0] == factors[20] < 1


def test_the_rarest_class_is_not_learned_by_heart() -> None:
    factors = repeat_factors(_dataset(*[{0}] * 500, *[{1}] * 500, {2}, classes=3), exponent=1)
    assert factors[-1] / factors[0] == pytest.approx(MOST_OFTEN)


def test_crowds_and_classes_that_nothing_shows_do_not_count() -> None:
    assert repeat_factors(_dataset({0}, {0}, classes=5), exponent=0.5) == ()
    assert repeat_factors(_dataset({0}, {0}, classes=1, crowds=True), exponent=0.5) == ()


@given(st.lists(st.floats(0.1, 4), min_size=1, max_size=60), st.integers(0, 2**32 - 1))
def test_an_epoch_shows_each_image_as_often_as_its_factor_allows(weights: list[float], seed: int) -> None:
    factors = np.asarray(weights) * len(weights) / sum(weights)
    order = draw_images(tuple(factors), np.random.default_rng(seed))
    assert len(order) == len(factors)
    counts = np.bincount(order, minlength=len(factors))
    assert (counts >= np.floor(factors - 1e-6)).all()
    assert (counts <= np.ceil(factors + 1e-6)).all()


def test_over_the_epochs_each_image_is_shown_as_often_as_its_factor_says() -> None:
    factors = (0.5,) * 8 + (2.0,) * 2 + (1.0,) * 2
    factors = tuple(f * 12 / sum(factors) for f in factors)
    orders = [draw_images(factors, np.random.default_rng([0, epoch])) for epoch in range(2000)]
    counts = np.bincount(np.concatenate(orders), minlength=12) / 2000
    assert counts == pytest.approx(np.asarray(factors), abs=0.05)


def test_no_view_comes_twice_in_a_run() -> None:
    steps = Steps(images=4, batch_size=2, epochs=3, evaluations=1, seed=0, repeats=(0.4, 0.4, 0.4, 2.8))
    views = [view for step in range(steps.total) for view in steps.views(step)]
    assert len(set(views)) == len(views) == 12
    assert sum(index == 3 for _, index in views) >= 6


@pytest.mark.parametrize("repeats", [(), (0.4, 0.4, 0.4, 2.8)])
def test_the_visits_of_an_image_are_counted_without_a_gap(repeats: tuple[float, ...]) -> None:
    """So that objects that take turns by them are all seen."""
    steps = Steps(images=4, batch_size=2, epochs=8, evaluations=1, seed=0, repeats=repeats)
    visits: dict[int, list[int]] = {}
    for step in range(steps.total):
        for visit, index in steps.views(step):
            visits.setdefault(index, []).append(visit)
    assert all(sorted(seen) == list(range(len(seen))) for seen in nonempty(visits.values()))

"""What is left of a base's skill is a ratio, where there is a skill."""

from __future__ import annotations

import pytest
from toy import metrics

from engine.evaluation.retention import MIN_BASE_AP, retention


@pytest.mark.parametrize(
    ("base", "adapted", "share"),
    [(0.5, 0.4, 0.8), (0.4, 0.5, 1.25), (0.5, 0.0, 0.0), (MIN_BASE_AP / 2, 0.5, -1), (-1.0, -1.0, -1)],
)
def test_the_share_is_that_of_ap(base: float, adapted: float, share: float) -> None:
    measured = retention("built-in", base=metrics(base), adapted=metrics(adapted))
    assert measured.share == pytest.approx(share)


def test_the_prompts_are_named() -> None:
    base = metrics(0.5).model_copy(update={"per_class": {"cat": 0.5, "cup": 0.4}})
    assert retention("built-in", base=base, adapted=base).prompts == ("cat", "cup")

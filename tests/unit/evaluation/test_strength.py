"""The strength of an adapter is chosen by AP first, then by retention."""

from __future__ import annotations

import pytest

from engine.evaluation.strength import choose_strength
from engine.results.types import StrengthPoint


def points(base: float, *measured: tuple[float, float, float | None]) -> list[StrengthPoint]:
    """Strength, AP and retention of each, after the base."""
    kept = None if all(share is None for _, _, share in measured) else 1.0
    return [
        StrengthPoint(strength=strength, ap=ap, retention=share)
        for strength, ap, share in ((0.0, base, kept), *measured)
    ]


WISE = points(0.1, (0.25, 0.2, 0.98), (0.5, 0.37, 0.9), (0.7, 0.49, 0.7), (0.85, 0.5, 0.5), (1.0, 0.48, 0.1))
"""A gain of 0.4 at most; 95 % of it are AP 0.48."""


@pytest.mark.parametrize(
    ("measured", "min_retention", "strength", "words"),
    [
        (WISE, None, 0.7, "highest retention of those that keep 95% of the gain"),
        (WISE, 0.6, 0.7, "highest AP of those that keep 60%"),
        (WISE, 0.8, 0.5, "highest AP of those that keep 80%"),
        (WISE, 0.0, 0.85, "highest AP of those that keep 0%"),
        (WISE, 0.99, 0.25, "highest retention; none that is better than the base keeps 99%"),
        (points(0.1, (0.5, 0.48, 0.5), (1.0, 0.6, 0.1)), 0.8, 0.5, "highest retention; none"),
        (points(0.1, (0.5, 0.05, 0.9), (1.0, 0.6, 0.1)), 0.8, 1.0, "highest retention; none"),
        (points(0.1, (1.0, 0.6, 0.1)), 0.8, 1.0, "highest retention; none"),
        (points(0.1, (1.0, 0.6, None)), None, 1.0, "the only one"),
        (points(0.1, (0.5, 0.48, 0.95), (1.0, 0.5, 0.85)), None, 1.0, "keep 80% of"),
        (points(0.1, (0.5, 0.4, None), (0.85, 0.5, None), (1.0, 0.5, None)), None, 1.0, "retention was not measured"),
        (points(0.1, (0.5, 0.4, None), (1.0, 0.3, None)), 0.8, 0.5, "not measured"),
        (points(0.082, (0.25, 0.09, 0.9), (1.0, 0.056, 0.1)), None, 0.25, "keep 80%"),
        (points(0.082, (0.25, 0.08, 0.9), (1.0, 0.056, 0.1)), None, 0.0, "AP 0.080 at 0.25, 0.082 without it"),
        (points(0.2, (0.5, 0.2, 1.0), (1.0, 0.2, 1.0)), 0.5, 0.0, "none is better than the base"),
        (points(0.0, (1.0, 0.0, None)), None, 0.0, "none is better"),
        (points(-1.0, (0.5, -1.0, None), (0.7, -1.0, None)), None, 0.7, "could not be measured"),
    ],
)
def test_the_strength_follows_the_rule(
    measured: list[StrengthPoint], min_retention: float | None, strength: float, words: str
) -> None:
    chosen, reason = choose_strength(measured, min_retention=min_retention)
    assert chosen == strength
    assert words in reason

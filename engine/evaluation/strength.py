"""Choose the strength of an adapter, the scale of its update, after training: AP on the data against retention. Pure.

Between base (0) and adapter (1), an interpolation often keeps much of the base's zero-shot skill at nearly the full
gain (WiSE-FT: Wortsman et al. 2022, arXiv:2109.01903). For LoRA the interpolated weights are W + strength * alpha/r BA.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.results.types import StrengthPoint

GAIN_KEPT = 0.95
"""Share of the largest gain that a strength keeps if it is chosen for its retention."""

ENOUGH = 0.8
"""Retention from which on AP alone decides, unless the user requires another."""


def choose_strength(points: Sequence[StrengthPoint], *, min_retention: float | None = None) -> tuple[float, str]:
    """Return the strength to publish, and the reason in words.

    Only strengths with a higher AP than the base are candidates; without any it is 0, which gives the base's results.

    Args:
        points: The measured strengths, 0 included.
        min_retention: Share of the base's zero-shot AP to keep at any loss of gain; if none keeps it, the one that
            keeps the most. None: :data:`ENOUGH`, at a loss of at most 5 % of the gain.
    """
    base = next(point for point in points if point.strength == 0)
    if base.ap < 0:
        return max(point.strength for point in points), "the strongest; AP could not be measured"
    better = [point for point in points if point.strength > 0 and point.ap > base.ap]
    if not better:
        best = _highest([point for point in points if point.strength > 0])
        return 0.0, f"none is better than the base: AP {best.ap:.3f} at {best.strength:g}, {base.ap:.3f} without it"
    if all(point.retention is None for point in better):
        alone = sum(point.strength > 0 for point in points) == 1
        return _highest(better).strength, "the only one" if alone else "highest AP; retention was not measured"
    if min_retention is not None:
        share = f"{min_retention:.0%} of the base's zero-shot AP"
        if kept := _keeping(better, min_retention):
            return _highest(kept).strength, f"highest AP of those that keep {share}"
        return _most_kept(better).strength, f"highest retention; none that is better than the base keeps {share}"
    gain = _highest(better).ap - base.ap
    near = [point for point in better if point.ap - base.ap >= GAIN_KEPT * gain]
    if kept := _keeping(near, ENOUGH):
        rule = f"highest AP of those that keep {ENOUGH:.0%} of the base's zero-shot AP and {GAIN_KEPT:.0%} of the gain"
        return _highest(kept).strength, rule
    return _most_kept(near).strength, f"highest retention of those that keep {GAIN_KEPT:.0%} of the gain"


def _highest(points: Sequence[StrengthPoint]) -> StrengthPoint:
    """Return the point with the highest AP; of equals the strongest."""
    return max(points, key=lambda point: (point.ap, point.strength))


def _most_kept(points: Sequence[StrengthPoint]) -> StrengthPoint:
    """Return the point with the highest retention; of equals the one with the highest AP, then the strongest."""
    return max(points, key=lambda point: (_share(point), point.ap, point.strength))


def _keeping(points: Sequence[StrengthPoint], share: float) -> list[StrengthPoint]:
    return [point for point in points if _share(point) >= share]


def _share(point: StrengthPoint) -> float:
    return -1.0 if point.retention is None else point.retention

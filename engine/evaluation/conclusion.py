"""Conclude from the metrics of base and adapter: better, worse, or no measurable change. Pure, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.results.metrics import ApMetrics, Comparison, Interval
from engine.results.no_gain import AS_THE_BASE
from engine.results.types import TeacherResult

CHANGE = 0.005
"""Smallest AP difference that counts as a change."""

LEAST_IMAGES = 6
"""Smallest number of images that can show a difference. That all of n images change in the same direction by chance has
the probability 2 / 2^n (sign test, both sides), which is below 5 % from six images on; the bootstrap interval of fewer
images is far too narrow."""


@dataclass(frozen=True)
class Conclusion:
    """Conclusion about a teacher or an evaluation.

    Attributes:
        kind: ``unknown`` if AP could not be measured, or on too few images.
        sentence: Metrics, interval and number of images.
        remark: Contradiction between AP and mean IoU; empty if there is none.
    """

    kind: Literal["better", "same", "worse", "unknown"]
    sentence: str
    remark: str = ""


def conclude(
    before: ApMetrics, after: ApMetrics, comparison: Comparison | None, *, cross_validated: bool = False
) -> Conclusion:
    """Judge an adapter by its AP, and by its mean IoU if that was measured.

    A difference whose 95 % interval includes 0, or that is below :data:`CHANGE`, counts as no measurable change. Fewer
    images than :data:`LEAST_IMAGES` show nothing.

    Args:
        before: Metrics of the base.
        after: Metrics of the adapter.
        comparison: Intervals of their difference, if they were computed.
        cross_validated: The images of all folds are measured, so cross-validation is not suggested.
    """
    if before.ap < 0 or after.ap < 0:
        return Conclusion("unknown", "AP could not be measured: the dataset has no objects")
    if _too_few(after):
        found = f"AP {before.ap:.3f} -> {after.ap:.3f}{mean_iou_change(before, after)}"
        return Conclusion("unknown", f"{_few_images(after, cross_validated=cross_validated)}: {found}")
    kind = _kind(after.ap - before.ap, None if comparison is None else comparison.difference)
    said = {"better": "better", "worse": "worse", "same": "no measurable change"}[kind]
    images = f" on {after.images:,} image{'' if after.images == 1 else 's'}" if after.images else ""
    sentence = (
        f"{said}: AP {before.ap:.3f} -> {after.ap:.3f}{images}{_difference(comparison)}{mean_iou_change(before, after)}"
    )
    return Conclusion(kind, sentence, _disagreement(before, after, comparison, kind))


def conclude_result(result: TeacherResult) -> Conclusion:
    """Judge a teacher by the test split if it exists, since the adapter was selected on the validation split."""
    before, after = _judged(result)
    cross_validated = result.cross_validation is not None
    if result.strength == 0:
        sentence = f"{AS_THE_BASE}: AP {result.before.ap:.3f} on the validation split"
        if _too_few(after):
            return Conclusion("unknown", f"{sentence}; {_few_images(after, cross_validated=cross_validated)}")
        return Conclusion("same", sentence)
    comparison = result.comparison if after is result.after else result.test_comparison
    return conclude(before, after, comparison, cross_validated=cross_validated)


def improved(result: TeacherResult) -> bool | None:
    """Test if an adapter is better than its base, on the split that :func:`conclude_result` uses.

    Returns:
        None if AP is higher but the change is not measurable, or if AP could not be measured or on too few images.
    """
    before, after = _judged(result)
    kind = conclude_result(result).kind
    if kind == "better":
        return True
    return None if kind == "unknown" or (kind == "same" and after.ap > before.ap) else False


def _judged(result: TeacherResult) -> tuple[ApMetrics, ApMetrics]:
    """Return the metrics of base and adapter on the test split, or on the validation split without one."""
    if result.test_before is not None and result.test_after is not None:
        return result.test_before, result.test_after
    return result.before, result.after


def _too_few(measured: ApMetrics) -> bool:
    return 0 < (measured.images or 0) < LEAST_IMAGES


def _few_images(measured: ApMetrics, *, cross_validated: bool) -> str:
    advice = "" if cross_validated else "; cross-validation uses all of them"
    return (
        f"too few images to tell a change from chance ({measured.images}, at least {LEAST_IMAGES} are needed{advice})"
    )


def _kind(change: float, interval: Interval | None) -> Literal["better", "same", "worse"]:
    if abs(change) < CHANGE or (interval is not None and interval.covers_zero):
        return "same"
    return "better" if change > 0 else "worse"


def _difference(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    return f" (difference {comparison.difference.low:+.3f} to {comparison.difference.high:+.3f} with 95 % confidence)"


def mean_iou_change(before: ApMetrics, after: ApMetrics) -> str:
    """Format the mean IoU of base and adapter as the end of a sentence; empty if it was not measured."""
    if before.miou is None or after.miou is None or min(before.miou, after.miou) < 0:
        return ""
    return f", mean IoU {before.miou:.3f} -> {after.miou:.3f}"


def _disagreement(before: ApMetrics, after: ApMetrics, comparison: Comparison | None, kind: str) -> str:
    """Compare the changes of AP and mean IoU: AP of masks from true boxes saturates, mean IoU does not."""
    if before.miou is None or after.miou is None or min(before.miou, after.miou) < 0:
        return ""
    gained, miou = after.ap - before.ap, after.miou - before.miou
    moved = _kind(miou, None if comparison is None else comparison.miou_difference)
    numbers = f"AP changes by {gained:+.3f}, mean IoU by {miou:+.3f}"
    if moved != kind and "same" not in (moved, kind):
        return f"AP and mean IoU disagree: {numbers}. Look at the masks before you choose between base and adapter"
    if gained * miou < 0 and min(abs(gained), abs(miou)) >= CHANGE:
        return f"AP and mean IoU disagree in sign: {numbers}"
    if moved != "same" and kind == "same":
        return f"masks from true boxes still get {moved}: mean IoU {before.miou:.3f} -> {after.miou:.3f}"
    return ""

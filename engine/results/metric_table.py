"""Table of the metrics of a teacher. Outcome, status, terminal, report and model card show what it contains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pydantic import Field

from engine.results.metrics import ApMetrics, Result

DIGITS = 4
"""Decimal places of a metric in an outcome, which must be short."""


@dataclass(frozen=True)
class Metric:
    """One metric of the detections of a base or an adapter.

    Attributes:
        name: Name in the outcome and in ``status.teachers[].metrics``.
        title: Title for people.
        note: Definition in a few words.
        value: Reads the metric, 0..1; -1 where there is nothing to measure, None where it does not apply.
        headline: Shown in the outcome, the status, the terminal and the model card, not in the report alone.
    """

    name: str
    title: str
    note: str
    value: Callable[[ApMetrics], float | None]
    headline: bool = False


METRICS: tuple[Metric, ...] = (
    Metric("ap", "AP", "mean over IoU 0.50 to 0.95", lambda m: m.ap, headline=True),
    Metric("ap50", "AP50", "loose match: IoU 0.50", lambda m: m.ap50, headline=True),
    Metric("ap75", "AP75", "close match: IoU 0.75", lambda m: m.ap75, headline=True),
    Metric("ap_small", "AP small", "objects below 32×32 pixels", lambda m: m.ap_small),
    Metric("ap_medium", "AP medium", "from 32×32 to 96×96", lambda m: m.ap_medium),
    Metric("ap_large", "AP large", "above 96×96", lambda m: m.ap_large),
    Metric("ar1", "AR1", "recall, one detection per image", lambda m: m.ar1),
    Metric("ar10", "AR10", "recall, ten detections per image", lambda m: m.ar10),
    Metric("ar100", "AR100", "recall, a hundred detections per image", lambda m: m.ar100),
    Metric("ar_small", "AR small", "recall of small objects", lambda m: m.ar_small),
    Metric("ar_medium", "AR medium", "recall of medium objects", lambda m: m.ar_medium),
    Metric("ar_large", "AR large", "recall of large objects", lambda m: m.ar_large),
    Metric("miou", "mean IoU", "of masks from true boxes", lambda m: m.miou, headline=True),
    Metric("mask_ap", "mask AP", "IoU of masks, found without prompts", lambda m: m.mask_ap, headline=True),
)


class Change(Result):
    """One metric before and after training; None where it could not be measured."""

    before: float | None = Field(default=None, description="Metric of the base on the validation split.")
    after: float | None = Field(default=None, description="Metric of the best adapter on the validation split.")


def changes(before: ApMetrics, after: ApMetrics, *, headline: bool = False) -> Iterator[tuple[Metric, Change]]:
    """Yield the metrics that apply to both, in the order of the table.

    Args:
        before: Metrics of the base.
        after: Metrics of the adapter.
        headline: Only headline metrics.
    """
    for metric in METRICS:
        values = metric.value(before), metric.value(after)
        if (metric.headline or not headline) and None not in values:
            yield metric, Change(before=_measured(values[0]), after=_measured(values[1]))


def metric_values(measured: Sequence[ApMetrics]) -> Iterator[tuple[str, list[float | None]]]:
    """Yield each metric that applies to any of some measurements: its name and the values."""
    for metric in METRICS:
        values = [metric.value(one) for one in measured]
        if any(value is not None for value in values):
            yield metric.name, values


def headline_changes(before: ApMetrics, after: ApMetrics) -> dict[str, Change]:
    """Return the headline metrics by name, rounded for an outcome."""
    return {
        metric.name: Change(before=_rounded(change.before), after=_rounded(change.after))
        for metric, change in changes(before, after, headline=True)
    }


def metric_text(value: float | None, *, missing: str = "–") -> str:
    """Return a metric for people, with three decimal places; ``missing`` if it could not be measured.

    >>> metric_text(0.3125), metric_text(None), metric_text(-1)
    ('0.312', '–', '–')
    """
    return missing if value is None or not 0 <= value <= 1 else f"{value:.3f}"


def ceiling_sentence(metrics: ApMetrics) -> str:
    """Return a sentence about objects that AP cannot count in very dense images; empty if there are none."""
    if metrics.ap_ceiling is None:
        return ""
    images = f"{metrics.dense_images:,} image{'s have' if metrics.dense_images > 1 else ' has'}"
    return (
        f"{images} more than 100 objects of a class, and COCO's AP counts 100 detections of a class an image: perfect "
        f"detections would have AP {metrics.ap_ceiling:.3f}, not 1. Cut such images into tiles to measure all objects"
    )


def _measured(value: float | None) -> float | None:
    return None if value is None or value < 0 else value


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)

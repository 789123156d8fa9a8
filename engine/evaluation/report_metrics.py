"""Rows, curves and number formats of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.evaluation.charts import Curve, curve, ratio_curve
from engine.results.metric_table import changes
from engine.results.metrics import ApMetrics, ScoreCurve
from engine.results.types import Retention, TeacherResult


@dataclass(frozen=True)
class Row:
    """One metric before and after; None if it could not be measured."""

    label: str
    note: str
    before: float | None
    after: float | None

    @property
    def change(self) -> float | None:
        """Difference after - before; None if one of them was not measured."""
        return None if self.before is None or self.after is None else self.after - self.before


def metric_rows(before: ApMetrics, after: ApMetrics) -> list[Row]:
    """Return the metrics of :mod:`engine.results.metric_table` that apply."""
    return [Row(metric.title, metric.note, change.before, change.after) for metric, change in changes(before, after)]


def class_rows(before: ApMetrics, after: ApMetrics) -> list[Row]:
    """Return the AP of each class, best first; classes that could not be measured last."""
    rows = [
        Row(name, "", number(before.per_class.get(name, -1)), number(value)) for name, value in after.per_class.items()
    ]
    return sorted(rows, key=lambda row: (row.after is None, -(row.after or 0), row.label))


def retention_rows(retention: Retention) -> list[Row]:
    """Return the metrics of the retention; the mean IoU if it was measured."""
    base, adapted = retention.base, retention.adapted
    rows = [Row("AP", "", number(base.ap), number(adapted.ap))]
    if base.miou is not None and adapted.miou is not None:
        rows.append(Row("mean IoU", "of masks from true boxes", number(base.miou), number(adapted.miou)))
    return rows


def curves(result: TeacherResult) -> list[Curve]:
    """Return the recorded curves of loss and AP over epochs."""
    losses = [(point.epoch, point.loss) for point in result.history if point.loss is not None]
    measured = [(point.epoch, point.ap) for point in result.history if point.ap is not None and point.ap >= 0]
    best = min(measured, key=lambda point: abs(point[0] - result.best_epoch), default=None)
    drawn = []
    if len(losses) > 1:
        drawn.append(curve("Training loss", losses))
    if measured:
        base = number(result.before.ap)
        drawn.append(curve("AP on the validation split", measured, best=best, base=base, from_zero=True))
    return drawn


def strength_curves(result: TeacherResult) -> list[Curve]:
    """Return AP, and the retention if it was measured, over the strength of the adapter."""
    points = () if result.strength_curve is None else result.strength_curve.points
    if len(points) < 2 or min(point.ap for point in points) < 0:
        return []
    values = {
        "AP on the validation split": [(point.strength, point.ap) for point in points],
        "Zero-shot AP kept": [(one.strength, one.retention) for one in points if one.retention is not None],
    }
    return [
        curve(title, line, best=_at(line, result.strength), from_zero=True, x_title="strength", marked="chosen")
        for title, line in values.items()
        if line
    ]


def _at(line: Sequence[tuple[float, float]], x: float) -> tuple[float, float] | None:
    return next((point for point in line if point[0] == x), None)


def score_curves(after: ScoreCurve | None, before: ScoreCurve | None = None) -> list[Curve]:
    """Return precision over recall, and F1 over the score threshold; empty without detections."""
    if after is None:
        return []
    pairs = [(one.recall, one.precision) if one else ((), ()) for one in (after, before)]
    thresholds = [(one.scores, one.f1) if one else ((), ()) for one in (after, before)]
    return [
        ratio_curve("Precision", _points(*pairs[0]), _points(*pairs[1]), x_title="recall"),
        ratio_curve("F1", _points(*thresholds[0]), _points(*thresholds[1]), x_title="score threshold"),
    ]


def _points(x_values: Sequence[float], y_values: Sequence[float]) -> list[tuple[float, float]]:
    return list(zip(x_values, y_values, strict=True))


def number(value: float) -> float | None:
    """Return None for -1, the value of a metric that was not measured."""
    return None if value < 0 else value


def text(value: float | None) -> str:
    """Return a metric with three digits; a dash if it was not measured."""
    return "–" if value is None else f"{value:.3f}"


def signed(value: float | None) -> str:
    """Return a difference with its sign; empty if it was not measured."""
    return "" if value is None else f"{value:+.3f}".replace("-", "−")

"""Render ``report.html``: the results of a run on one self-contained page without scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from engine.dataset.types import DatasetInfo
from engine.evaluation.charts import Curve, curve, ratio_curve
from engine.evaluation.conclusion import conclude_result, mean_iou_change
from engine.evaluation.example_drawings import legend, pictures
from engine.evaluation.example_images import MIN_SCORE, SampleView
from engine.evaluation.report_sections import matrix, mistakes, retention_remark, retention_sentence, thresholds
from engine.layout import VALIDATION_PAGES, adapter_folder, validation_page
from engine.registry import prompter_title
from engine.results.metrics import changes
from engine.results.model_card import loading_lines
from engine.results.types import ApMetrics, Interval, Retention, ScoreCurve, TeacherResult, ceiling_sentence
from engine.spec import TeacherName

PICTURES_BYTES = 1_300_000
"""Approximate bytes of all pictures of a report together; base64 adds a third."""


FEW_IMAGES = 50
"""Below this number of images, AP varies by hundredths by chance."""


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


@dataclass(frozen=True)
class Verdict:
    """Conclusion about a teacher.

    Attributes:
        kind: ``better``, ``same``, ``worse`` or ``unknown``.
        row: AP before and after.
        sentence: The conclusion in one sentence.
        remarks: Caveats and suggestions, as sentences.
    """

    kind: str
    row: Row
    sentence: str
    remarks: tuple[str, ...]


def render_report(
    *,
    name: str,
    run_id: str,
    created: str,
    info: DatasetInfo,
    config_yaml: str,
    settings: Mapping[TeacherName, Mapping[str, str]],
    results: Sequence[TeacherResult],
    samples: Mapping[TeacherName, Sequence[SampleView]],
    environment: Mapping[str, str],
) -> str:
    """Render the HTML page of a run.

    Args:
        name: Name of the request.
        run_id: Id of the run.
        created: Creation time, UTC, ISO 8601.
        info: Statistics and problems of the dataset.
        config_yaml: Content of ``teacher_config.yaml``.
        settings: Name and value of the settings to show, for each teacher.
        results: Result of each teacher.
        samples: Example images of each teacher.
        environment: Versions and hardware.
    """
    budget = PICTURES_BYTES // max(1, 3 * sum(len(views) for views in samples.values()))
    return _template().render(
        name=name,
        run_id=run_id,
        created=created,
        info=info,
        config_yaml=config_yaml,
        environment=environment,
        teachers=[
            _teacher(result, samples.get(result.teacher, ()), budget, settings.get(result.teacher, {}))
            for result in results
        ],
        score_threshold=MIN_SCORE,
        classes_by_count=sorted(info.classes, key=lambda c: (-c.annotations, c.name)),
        most_of_a_class=max([1, *(c.annotations for c in info.classes)]),
    )


def verdict(result: TeacherResult) -> Verdict:
    """Judge a teacher on the test split if it exists, since the adapter was selected on the validation split."""
    title = result.teacher.traits.title
    tested = result.test_before is not None and result.test_after is not None
    before, after = (result.test_before or result.before), (result.test_after or result.after)
    row = Row("AP", "", _number(before.ap), _number(after.ap))
    where = f"{after.images} images" if after.images else "images"
    where += _seen_before(result, tested=tested)
    remarks = []
    if row.before is None or row.after is None or row.change is None:
        return Verdict("unknown", row, f"{title} could not be measured: no objects on the {where}.", ())
    concluded = conclude_result(result)
    comparison = result.test_comparison if tested else result.comparison
    numbers = f"AP {row.before:.2f} → {row.after:.2f}{mean_iou_change(before, after).replace('->', '→')} on {where}"
    if comparison is not None:
        numbers += f"; the difference is {_range(comparison.difference)} with 95 % confidence"
    kind = concluded.kind
    if kind == "better":
        sentence = f"{title}: {numbers}."
    elif kind == "same":
        sentence = f"{title} shows no measurable change: {numbers}."
        remarks.append("On these images the base model performs as well as this adapter.")
    else:
        sentence = f"{title} got worse: {numbers}."
        remarks.append("Use the base model, not this adapter.")
    if concluded.remark:
        remarks.append(f"{concluded.remark}.")
    if ceiling := ceiling_sentence(after):
        remarks.append(f"{ceiling}.")
    if not tested:
        remarks.append("The best epoch was selected on these images, so AP on new images may be slightly lower.")
    if result.from_detector_before is not None and result.from_detector_after is not None:
        before_ap, after_ap = (
            _text(_number(one.ap)) for one in (result.from_detector_before, result.from_detector_after)
        )
        detector = prompter_title(result.teacher)
        remarks.append(
            f"Prompted with the boxes of the tuned {detector}, as in labelling: AP {before_ap} → {after_ap}."
        )
    if result.images_skipped or result.objects_skipped:
        remarks.append(
            f"{result.images_skipped:,} images and {result.objects_skipped:,} objects were not usable and were skipped."
        )
    if after.images and after.images < FEW_IMAGES:
        remarks.append(f"With {after.images} images, a difference of a few hundredths can be chance.")
    if (warning := retention_remark(result.retention)) is not None:
        remarks.append(warning)
    if 0 < result.epochs <= result.best_epoch:
        remarks.append("The last epoch was the best one: more epochs may improve AP further.")
    return Verdict(kind, row, sentence, tuple(remarks))


def metric_rows(before: ApMetrics, after: ApMetrics) -> list[Row]:
    """Return the metrics of :mod:`engine.results.metrics` that apply."""
    return [Row(metric.title, metric.note, change.before, change.after) for metric, change in changes(before, after)]


def class_rows(before: ApMetrics, after: ApMetrics) -> list[Row]:
    """Return the AP of each class, best first; classes that could not be measured last."""
    rows = [
        Row(name, "", _number(before.per_class.get(name, -1)), _number(value))
        for name, value in after.per_class.items()
    ]
    return sorted(rows, key=lambda row: (row.after is None, -(row.after or 0), row.label))


def retention_rows(retention: Retention) -> list[Row]:
    """Return the metrics of the retention; the mean IoU if it was measured."""
    base, adapted = retention.base, retention.adapted
    rows = [Row("AP", "", _number(base.ap), _number(adapted.ap))]
    if base.miou is not None and adapted.miou is not None:
        rows.append(Row("mean IoU", "of masks from true boxes", _number(base.miou), _number(adapted.miou)))
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
        base = _number(result.before.ap)
        drawn.append(curve("AP on the validation split", measured, best=best, base=base, from_zero=True))
    return drawn


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


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("engine.evaluation", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_text, change=_signed, duration=_duration, bytes=_bytes, format_count=_count)
    return environment.get_template("report.html.j2")


def _teacher(
    result: TeacherResult, views: Sequence[SampleView], budget: int, settings: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "settings": settings,
        "title": result.teacher.traits.title,
        "slug": result.teacher.slug,
        "pages": _pages(result),
        "result": result,
        "verdict": verdict(result),
        "metrics": metric_rows(result.before, result.after),
        "test_metrics": metric_rows(result.test_before, result.test_after)
        if result.test_before and result.test_after
        else [],
        "classes": class_rows(result.before, result.after),
        "curves": curves(result),
        "mistakes": mistakes(result),
        "matrix": matrix(result.confusion_after.matrix) if result.confusion_after else None,
        "matrix_before": matrix(result.confusion_before.matrix) if result.confusion_before else None,
        "score_curves": score_curves(result.score_curve_after, result.score_curve_before),
        "class_score_curves": [(name, score_curves(one)) for name, one in result.class_score_curves.items()],
        "thresholds": thresholds(result),
        "retention": retention_rows(result.retention) if result.retention else [],
        "retention_sentence": retention_sentence(result.retention) if result.retention else "",
        "retention_prompts": class_rows(result.retention.base, result.retention.adapted) if result.retention else [],
        "samples": [pictures(view, budget=budget) for view in views],
        "legend": legend(views),
        "prompted": result.teacher.traits.needs_masks,
        "loading": loading_lines(result),
    }


def _pages(result: TeacherResult) -> str:
    """Return the path of the first validation page from the report; empty without pages."""
    return (
        f"{adapter_folder(result.teacher)}/{VALIDATION_PAGES}/{validation_page(1)}" if result.validation_pages else ""
    )


def _number(value: float) -> float | None:
    return None if value < 0 else value


def _seen_before(result: TeacherResult, *, tested: bool) -> str:
    """Describe the overlap of the evaluated split with other splits, as far as it was checked."""
    split = "test" if tested else "validation"
    if result.split_check is None:
        return f" of the {split} split"
    shared = result.split_check.test if tested else result.split_check.val
    if shared or result.split_check.versions:
        count = shared or result.split_check.versions
        what = "are also in another split" if shared else "are versions of images of another split, by file name"
        return f" of the {split} split, of which {count:,} {what}"
    return " used neither for training nor for selection" if tested else " it was not trained on"


def _range(interval: Interval) -> str:
    return f"{_signed(interval.low)} to {_signed(interval.high)}"


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.3f}".replace("-", "−")


def _count(value: int) -> str:
    return f"{value:,}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"

"""Render ``report.html``: the results of a run on one self-contained page without scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from engine.dataset.types import DatasetInfo
from engine.evaluation.example_drawings import BEFORE_AFTER, TEACHER_STUDENT, legend, pictures
from engine.evaluation.example_images import MIN_SCORE, SampleView
from engine.evaluation.report_metrics import (
    class_rows,
    curves,
    metric_rows,
    retention_rows,
    score_curves,
    signed,
    strength_curves,
    text,
)
from engine.evaluation.report_sections import (
    beside_teacher,
    confidence_sentence,
    found_by_rows,
    matrix,
    mistakes,
    retention_sentence,
    thresholds,
)
from engine.evaluation.report_verdict import verdict
from engine.layout import VALIDATION_PAGES, adapter_folder, validation_page
from engine.registry import ModelName
from engine.results.artifacts import Artifacts
from engine.results.licences import licences_of
from engine.results.model_card import loading_lines
from engine.results.trials import selection_sentence, settings_text
from engine.results.types import TeacherResult

PICTURES_BYTES = 1_300_000
"""Approximate bytes of all pictures of a report together; base64 adds a third."""


ADAPTER_NAMES = {"before": "Base", "after": "Adapted", "product": "adapter", "adapter": "yes"}
STUDENT_NAMES = {"before": "Untrained", "after": "Student", "product": "student", "adapter": ""}
COMPARED_NAMES = STUDENT_NAMES | {"before": "Teacher"}
"""Names of what is compared, and of the result."""


def render_report(
    *,
    name: str,
    run_id: str,
    created: str,
    info: DatasetInfo,
    config_yaml: str,
    settings: Mapping[ModelName, Mapping[str, str]],
    results: Sequence[TeacherResult],
    artifacts: Sequence[Artifacts] = (),
    samples: Mapping[ModelName, Sequence[SampleView]],
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
        artifacts: Measurements of the exported files of each student.
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
            _model(result, samples.get(result.teacher, ()), budget, settings.get(result.teacher, {}))
            for result in results
        ],
        artifacts={made.model: made for made in artifacts},
        score_threshold=MIN_SCORE,
        classes_by_count=sorted(info.classes, key=lambda c: (-c.annotations, c.name)),
        most_of_a_class=max([1, *(c.annotations for c in info.classes)]),
    )


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("engine.evaluation", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=text, change=signed, duration=_duration, bytes=_bytes, format_count=_count)
    return environment.get_template("report.html.j2")


def _model(
    result: TeacherResult, views: Sequence[SampleView], budget: int, settings: Mapping[str, str]
) -> dict[str, Any]:
    names = ADAPTER_NAMES if result.teacher.traits.adapts_base else STUDENT_NAMES
    labels, judged = BEFORE_AFTER, verdict(result)
    if result.reference is not None:
        names, labels, result = COMPARED_NAMES, TEACHER_STUDENT, beside_teacher(result, result.reference)
    return {
        "settings": settings,
        "name": result.teacher.value,
        "reference": result.reference,
        "found_by": found_by_rows(result.reference),
        "title": result.teacher.traits.title,
        "slug": result.teacher.slug,
        "pages": _pages(result),
        "result": result,
        "verdict": judged,
        "metrics": metric_rows(result.before, result.after),
        "test_metrics": metric_rows(result.test_before, result.test_after)
        if result.test_before and result.test_after
        else [],
        "trials": (trials := result.trials or (result.cross_validation.folds if result.cross_validation else ())),
        "trial_settings": [settings_text(trial) for trial in trials],
        "selection": selection_sentence(result),
        "classes": class_rows(result.before, result.after),
        "curves": curves(result),
        "strength_curves": strength_curves(result),
        "confidence": confidence_sentence(result.comparison, with_teacher=result.reference is not None),
        "test_confidence": confidence_sentence(result.test_comparison, with_teacher=result.reference is not None),
        "mistakes": mistakes(result),
        "matrix": matrix(result.confusion_after.matrix) if result.confusion_after else None,
        "matrix_before": matrix(result.confusion_before.matrix) if result.confusion_before else None,
        "score_curves": score_curves(result.score_curve_after, result.score_curve_before),
        "class_score_curves": [(name, score_curves(one)) for name, one in result.class_score_curves.items()],
        "thresholds": thresholds(result),
        "retention": retention_rows(result.retention) if result.retention else [],
        "retention_sentence": retention_sentence(result.retention) if result.retention else "",
        "retention_prompts": class_rows(result.retention.base, result.retention.adapted) if result.retention else [],
        "samples": [pictures(view, budget=budget, labels=labels) for view in views],
        "legend": legend(views),
        "prompted": result.teacher.traits.needs_masks,
        "loading": loading_lines(result),
        "names": names,
        "licences": licences_of(result),
    }


def _pages(result: TeacherResult) -> str:
    """Return the path of the first validation page from the report; empty without pages."""
    return (
        f"{adapter_folder(result.teacher)}/{VALIDATION_PAGES}/{validation_page(1)}" if result.validation_pages else ""
    )


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

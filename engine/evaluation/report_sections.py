"""Data of the report's sections on mistakes, score thresholds and retention. Pure, no markup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.evaluation.retention import BUILT_IN, MIN_BASE_AP
from engine.results.metrics import ClassMatrix, Comparison, Confusion
from engine.results.reference import Reference
from engine.results.types import ClassQuality, Retention, TeacherResult

OBJECTS = (
    ("found", "Found", "by a detection of its class, IoU 0.5 or more"),
    ("missed", "Missed", "no detection near it"),
    ("mistaken", "Mistaken", "detected only as another class, or badly localised"),
)
"""Kinds of true objects; they add up to all objects."""

DETECTIONS = (
    ("found", "Right", "of an object of its class, IoU 0.5 or more"),
    ("wrong_class", "Wrong class", "of an object of another class"),
    ("badly_localised", "Badly localised", "IoU of 0.1 to 0.5"),
    ("duplicates", "Duplicate", "of an object that already has a detection"),
    ("false", "False", "of no object"),
)
"""Kinds of detections at or above the threshold; they add up to all of them."""

LOW_RETENTION = 0.8
"""Retention below which the report warns users who prompt for other classes."""


@dataclass(frozen=True)
class Count:
    """Counts of one kind, before and after, with their shares of the total."""

    label: str
    note: str
    before: int
    after: int
    before_share: float
    after_share: float


@dataclass(frozen=True)
class Cell:
    """Count in the matrix; ``share`` is its share of the row and sets the shade."""

    count: int
    share: float


@dataclass(frozen=True)
class Matrix:
    """A class matrix with a name for each row and column."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


@dataclass(frozen=True)
class Threshold:
    """Threshold of a class; ``quality`` is None if it was not chosen by detections of this class."""

    name: str
    threshold: float
    quality: ClassQuality | None


@dataclass(frozen=True)
class Group:
    """Counts that add up to a total: all objects, or all detections."""

    title: str
    rows: tuple[Count, ...]
    before: int
    after: int


def mistakes(result: TeacherResult) -> list[Group]:
    """Return the kinds of objects and of detections with their counts; empty if the result has none."""
    before, after = result.confusion_before, result.confusion_after
    if before is None or after is None:
        return []
    return [_group(title, kinds, before, after) for title, kinds in (("Objects", OBJECTS), ("Detections", DETECTIONS))]


def _group(title: str, kinds: Sequence[tuple[str, str, str]], before: Confusion, after: Confusion) -> Group:
    counts = [(_count(before, field), _count(after, field)) for field, _, _ in kinds]
    totals = [sum(column) for column in zip(*counts, strict=True)]
    rows = tuple(
        Count(label, note, old, new, old / max(1, totals[0]), new / max(1, totals[1]))
        for (_, label, note), (old, new) in zip(kinds, counts, strict=True)
    )
    return Group(title, rows, *totals)


def _count(confusion: Confusion, field: str) -> int:
    if field == "mistaken":
        return confusion.objects - confusion.found - confusion.missed
    value: int = getattr(confusion, field)
    return value


def matrix(counted: ClassMatrix | None) -> Matrix | None:
    """Label the matrix: one row per true class, one column per detected class."""
    if counted is None:
        return None
    rows = []
    for name, counts in zip([*counted.classes, "no object"], counted.counts, strict=True):
        total = max(1, sum(counts))
        rows.append((name, tuple(Cell(count, count / total) for count in counts)))
    return Matrix((*counted.classes, "no detection"), tuple(rows))


def thresholds(result: TeacherResult) -> list[Threshold]:
    """Return the threshold of each class, best F1 first; classes without a correct detection last."""
    rows = []
    for name, threshold in result.thresholds.items():
        quality = result.quality.get(name)
        rows.append(Threshold(name, threshold, quality if quality is not None and quality.f1 > 0 else None))
    return sorted(rows, key=lambda row: (row.quality is None, -(row.quality.f1 if row.quality else 0), row.name))


def beside_teacher(result: TeacherResult, teacher: Reference) -> TeacherResult:
    """Return the result of a student with its teacher in the place of the untrained student."""
    shown = {
        "before": teacher.val,
        "test_before": teacher.test,
        "comparison": teacher.comparison,
        "test_comparison": teacher.test_comparison,
        "confusion_before": teacher.confusion,
        "score_curve_before": teacher.score_curve,
    }
    return result.model_copy(update=shown)


def found_by_rows(teacher: Reference | None) -> list[tuple[str, int, float]]:
    """Return label, count and share of the objects that teacher and student find; empty without a teacher."""
    if teacher is None:
        return []
    found = teacher.found_by
    counts = {
        "both": found.both,
        "the teacher only": found.teacher_only,
        "the student only": found.student_only,
        "neither": found.neither,
    }
    return [(label, count, count / max(1, sum(counts.values()))) for label, count in counts.items()]


def confidence_sentence(comparison: Comparison | None, *, with_teacher: bool = False) -> str:
    """Describe the confidence intervals of AP before and after, or of teacher and student; empty if there are none."""
    if comparison is None:
        return ""
    before, after, gain = comparison.before, comparison.after, comparison.difference
    names = ("for the teacher", "for the student") if with_teacher else ("before", "after")
    return (
        f"With 95 % confidence, AP is {before.low:.3f} to {before.high:.3f} {names[0]}, {after.low:.3f} to "
        f"{after.high:.3f} {names[1]}, and {'differs' if with_teacher else 'changes'} by {gain.low:+.3f} to "
        f"{gain.high:+.3f} (bootstrap: {comparison.resamples} resamples of {comparison.images} images)."
    )


def retention_sentence(retention: Retention) -> str:
    """Describe the retention in a sentence."""
    base, adapted = retention.base, retention.adapted
    where = f"{base.images or 'some'} {'built-in ' if retention.source == BUILT_IN else ''}images"
    asked = f"Prompted for {len(retention.prompts)} other classes on {where}"
    if retention.share < 0:
        return f"{asked}, the base finds almost nothing (AP below {MIN_BASE_AP}): retention cannot be measured."
    kept = f"{retention.share:.0%} of the base's zero-shot AP is kept"
    return (
        f"{asked}, AP goes from {base.ap:.3f} to {adapted.ap:.3f}: {kept}. Without the adapter, the base is unchanged."
    )


def retention_remark(retention: Retention | None) -> str | None:
    """Return a warning if the retention is low, otherwise None."""
    if retention is None or not 0 <= retention.share < LOW_RETENTION:
        return None
    return (
        f"Only {retention.share:.0%} of the base's zero-shot AP on other classes is kept: switch the adapter off when "
        "you prompt for classes that it was not tuned on."
    )

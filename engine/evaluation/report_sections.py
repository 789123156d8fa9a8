"""Mistakes, score thresholds and retention of a teacher, as the report draws them: pure, no markup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.evaluation.retention import BUILT_IN, LEAST_SKILL
from engine.result_types import ClassMatrix, ClassQuality, Confusion, Retention, TeacherResult

OBJECTS = (
    ("found", "Found", "by a detection of its class, IoU 0.5 or more"),
    ("missed", "Missed", "no detection near it"),
    ("mistaken", "Mistaken", "detected only as another class, or badly localised"),
)
"""What becomes of true objects: the three make up all of them."""

DETECTIONS = (
    ("found", "Right", "of an object of its class, IoU 0.5 or more"),
    ("wrong_class", "Wrong class", "of an object of another class"),
    ("badly_localised", "Badly localised", "IoU of 0.1 to 0.5"),
    ("duplicates", "Duplicate", "of an object that is found already"),
    ("false", "False", "of no object"),
)
"""What becomes of detections from the threshold on: the five make up all of them."""

LOW_RETENTION = 0.8
"""Below this share of the base's skill, whoever uses the adapter for other things should know."""


@dataclass(frozen=True)
class Count:
    """How often something happened, before and after, and both as shares of all that it could have happened to."""

    label: str
    note: str
    before: int
    after: int
    before_share: float
    after_share: float


@dataclass(frozen=True)
class Cell:
    """A count of the matrix; ``share`` of its row is how dark it is."""

    count: int
    share: float


@dataclass(frozen=True)
class Matrix:
    """A class matrix with a name for each row and column."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


@dataclass(frozen=True)
class Threshold:
    """The threshold of a class; ``quality`` is None where it was not chosen by what was seen of the class."""

    name: str
    threshold: float
    quality: ClassQuality | None


@dataclass(frozen=True)
class Group:
    """Counts that add up: what became of all objects, or of all detections."""

    title: str
    rows: tuple[Count, ...]
    before: int
    after: int


def mistakes(result: TeacherResult) -> list[Group]:
    """Return what became of objects, and of detections; none in a result that has not counted them."""
    before, after = result.confusion_before, result.confusion_after
    if before is None or after is None:
        return []
    return [
        _group(title, kinds, before, after)
        for title, kinds in (("What became of the objects", OBJECTS), ("What the detections are", DETECTIONS))
    ]


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
    """The matrix by name: what was seen for each true class."""
    if counted is None:
        return None
    rows = []
    for name, counts in zip([*counted.classes, "nothing there"], counted.counts, strict=True):
        total = max(1, sum(counts))
        rows.append((name, tuple(Cell(count, count / total) for count in counts)))
    return Matrix((*counted.classes, "nothing"), tuple(rows))


def thresholds(result: TeacherResult) -> list[Threshold]:
    """Of each class, best F1 first; those that nothing right was seen of last."""
    rows = []
    for name, threshold in result.thresholds.items():
        quality = result.quality.get(name)
        rows.append(Threshold(name, threshold, quality if quality is not None and quality.f1 > 0 else None))
    return sorted(rows, key=lambda row: (row.quality is None, -(row.quality.f1 if row.quality else 0), row.name))


def retention_sentence(retention: Retention) -> str:
    """What is left of the base's skill, for people."""
    base, adapted = retention.base, retention.adapted
    where = f"{base.images or 'some'} {'built-in ' if retention.source == BUILT_IN else ''}images"
    asked = f"Asked for {len(retention.prompts)} other things on {where}"
    if retention.share < 0:
        return (
            f"{asked}, the base finds next to nothing (AP below {LEAST_SKILL}): nothing can be said of what is left of "
            "its skill."
        )
    left = f"{retention.share:.0%} of the base's skill is left"
    return f"{asked}, AP goes from {base.ap:.3f} to {adapted.ap:.3f}: {left}. With the adapter off it is all there."


def retention_remark(retention: Retention | None) -> str | None:
    """A warning for whoever uses the adapter for other things; None where there is no need of one."""
    if retention is None or not 0 <= retention.share < LOW_RETENTION:
        return None
    return (
        f"Only {retention.share:.0%} of the base's skill on other things is left: switch the adapter off when you ask "
        "for what it was not tuned on."
    )

"""Type of the teacher that a student is compared with, measured on the same images."""

from __future__ import annotations

from pydantic import Field

from engine.registry import ModelName
from engine.results.metrics import ApMetrics, Comparison, Confusion, Result, ScoreCurve


class FoundBy(Result):
    """True objects of the validation split by who finds them, each at its own best score thresholds."""

    both: int
    teacher_only: int = Field(description="Missed by the student.")
    student_only: int
    neither: int
    missed_by_class: dict[str, int] = Field(
        default={}, description="By class name, objects that the teacher finds and the student misses."
    )


class Reference(Result):
    """The teacher of a student on the student's validation and test split, whose labels are human ones."""

    teacher: ModelName
    uri: str = Field(description="Folder of its adapter.")
    val: ApMetrics
    test: ApMetrics | None = None
    comparison: Comparison | None = Field(
        default=None, description="Intervals on the validation split; before: the teacher, after: the student."
    )
    test_comparison: Comparison | None = Field(default=None, description="The same on the test split.")
    confusion: Confusion | None = Field(default=None, description="At its own best thresholds.")
    score_curve: ScoreCurve | None = None
    found_by: FoundBy
    trained_on: int = Field(
        default=0, description="Images of these splits that the teacher was trained on, by the lists of its run."
    )

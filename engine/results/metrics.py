"""Types of what is measured on a split, as stored in the results of a run."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Result(BaseModel):
    """Base of all results."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ApMetrics(Result):
    """COCO's twelve numbers, 0..1, or -1 where there is nothing to measure; and AP of each class."""

    ap: float = Field(description="AP over IoU .50:.05:.95, all sizes, 100 detections an image.")
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    per_class: dict[str, float] = Field(description="AP by class name; -1 without objects of it.")
    images: int | None = Field(default=None, description="How many images were measured.")
    miou: float | None = Field(default=None, description="Masks: mean IoU of those prompted by true boxes.")
    mask_ap: float | None = Field(
        default=None, description="AP by the IoU of masks, of a model that finds boxes with masks and is not prompted."
    )
    ap_ceiling: float | None = Field(
        default=None,
        description="AP of perfect detections, where images have more than 100 objects of a class: COCO counts 100 "
        "detections of a class an image. None where nothing is cut.",
    )
    dense_images: int = Field(default=0, description="Images with more than 100 objects of a class.")


class Interval(Result):
    """95 % confidence interval of a number, for images drawn at random."""

    low: float
    high: float

    @property
    def covers_zero(self) -> bool:
        """True if the interval includes 0."""
        return self.low <= 0 <= self.high


class Comparison(Result):
    """Confidence intervals of the AP of base and adapter, by resampling the images (bootstrap)."""

    images: int
    resamples: int
    before: Interval = Field(description="AP of the base.")
    after: Interval = Field(description="AP of the adapter.")
    difference: Interval = Field(description="AP of the adapter minus that of the base, on the same images.")
    miou_difference: Interval | None = Field(default=None, description="Masks: the same of the mean IoU.")


class ScoreCurve(Result):
    """Precision and recall of all detections from each of K scores on, at an IoU of 0.5; K is at most 50."""

    scores: tuple[float, ...] = Field(description="Descending, from the highest score of any detection.")
    precision: tuple[float, ...]
    recall: tuple[float, ...]

    @property
    def f1(self) -> tuple[float, ...]:
        """Harmonic mean of precision and recall at each score."""
        return tuple(2 * p * r / (p + r) if p + r else 0.0 for p, r in zip(self.precision, self.recall, strict=True))


class ClassMatrix(Result):
    """Which class was seen for which, of the most frequent classes."""

    classes: tuple[str, ...] = Field(description="Most frequent first.")
    counts: tuple[tuple[int, ...], ...] = Field(
        description="Rows: the true class, last nothing. Columns: the class that was seen, last nothing."
    )


class Confusion(Result):
    """Counts of correct and wrong detections at the score thresholds, in the manner of TIDE (arXiv:2008.08115).

    An object is found, missed, or covered only by detections of the other kinds.
    """

    objects: int = Field(description="True objects, crowds aside.")
    found: int = Field(description="Objects with a detection of their class and an IoU of at least 0.5, one each.")
    missed: int = Field(description="Objects that are neither found, nor badly localised, nor seen as another class.")
    false: int = Field(description="Detections of nothing: of no object's place, or of neither its place nor class.")
    wrong_class: int = Field(description="Detections of an object of another class, with an IoU of at least 0.5.")
    badly_localised: int = Field(description="Detections of an object of their class with an IoU from 0.1 to 0.5.")
    duplicates: int = Field(description="Detections of an object that another one has found.")
    matrix: ClassMatrix | None = Field(default=None, description="None for one class.")

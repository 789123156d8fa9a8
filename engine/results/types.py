"""Types of the results of a run, as stored in ``metrics.json`` and ``metadata.json``."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from engine.registry import ModelName, TeacherName
from engine.results.metrics import ApMetrics, Comparison, Confusion, Result, ScoreCurve
from engine.results.reference import Reference
from engine.text.format_version import FORMAT_VERSION


class HistoryPoint(Result):
    """One evaluation, or one interval of training."""

    step: int
    epoch: float
    loss: float | None = None
    ap: float | None = None


class StrengthPoint(Result):
    """Evaluation of an adapter at one strength; 0 is the base."""

    strength: float = Field(description="Scale of the update, 0 to 1.")
    ap: float = Field(description="AP on the validation split, or on a part of it.")
    retention: float | None = Field(
        default=None, description="Share of the base's zero-shot AP that is kept; None: not measured."
    )


class StrengthCurve(Result):
    """AP and retention over the strength of an adapter, by which the strength was chosen."""

    images: int = Field(description="Images of the validation split that AP was measured on.")
    retention_images: int = Field(default=0, description="Images that retention was measured on.")
    points: tuple[StrengthPoint, ...] = Field(description="In the order of the strength, from 0 on.")
    reason: str = Field(description="Rule that chose the strength, in words.")
    min_retention: float | None = Field(
        default=None, description="Share of the base's zero-shot AP that the user required; None: none."
    )


class AdapterFile(Result):
    """The published adapter."""

    uri: str
    sha256: str
    size_bytes: int


class ClassQuality(Result):
    """Quality for one class at the class's score threshold; -1 where there is nothing to measure."""

    f1: float = Field(description="Harmonic mean of precision and recall at an IoU of 0.5.")
    precision: float
    recall: float
    objects: int = Field(description="True objects of the class.")


class Retention(Result):
    """Zero-shot AP of the base that the adapter keeps, on prompts and labelled images outside the dataset."""

    source: str = Field(description="URI of the annotations; `built-in`: the images that come with the engine.")
    prompts: tuple[str, ...] = Field(description="The prompts: classes that the dataset does not have.")
    base: ApMetrics = Field(description="With the adapter off.")
    adapted: ApMetrics = Field(description="With the adapter on.")
    share: float = Field(description="AP with the adapter over AP without it; -1 where the base finds next to nothing.")


class MemoryNeed(Result):
    """Estimated GPU memory of the training steps of a teacher, in bfloat16."""

    teacher: TeacherName
    memory_bytes: int = Field(description="Whole batches at a time, all activations kept: the fastest.")
    least_memory_bytes: int = Field(description="One image at a time, activations computed again.")


class SplitCheck(Result):
    """Images that several splits of the run share, by file, bytes, picture or the user's group."""

    val: int = Field(description="Images of val that are in train too.")
    test: int = Field(default=0, description="Images of test that are in train or val too.")
    versions: int = Field(default=0, description="Images whose names are of versions of pictures of another split.")
    examples: tuple[str, ...] = Field(default=(), description="The first few.")


class TrialResult(Result):
    """One of several trainings of a teacher: a trial of a sweep, or a fold of a cross-validation."""

    name: str = Field(description="Such as trial-1 or fold-1.")
    settings: dict[str, Any] = Field(default={}, description="Settings of the trial, by path; empty for a fold.")
    ap_before: float = Field(description="AP of the base on the validation images.")
    ap: float | None = Field(
        description="AP of the best adapter on the validation images, which chose it; of a fold, at the published "
        "strength. None: the training failed."
    )
    validation_images: int = Field(description="Images that AP was measured on.")
    best_epoch: float = Field(default=0, description="Passes over the training images at the best adapter.")
    epochs: float = Field(default=0, description="Passes over the training images that were made.")
    images: int = Field(default=0, description="Training images seen, counted each time.")
    seconds: float = Field(default=0, description="Wall-clock time of training and its evaluations.")
    chosen: bool = Field(default=False, description="Its adapter is the published one.")
    failure: str = Field(default="", description="Why it has no AP.")


class CrossValidation(Result):
    """Estimate of the quality of the published adapter, which was trained on all images of the folds."""

    ap_mean: float = Field(description="Mean over the folds of the AP of the adapter.")
    ap_sigma: float = Field(description="Standard deviation over the folds (divisor N - 1).")
    ap_before_mean: float = Field(description="The same mean of the base.")
    ap_before_sigma: float = Field(description="The same standard deviation of the base.")
    epochs: int = Field(description="Epochs of the published training: the mean of the best epochs of the folds.")
    folds: tuple[TrialResult, ...]


class TeacherResult(Result):
    """One teacher or student of a run, before and after; a student before its training detects nothing."""

    format_version: int = FORMAT_VERSION
    teacher: ModelName
    base_model: str
    base_revision: str | None = Field(description="Commit of a hub model, digest of a local one.")
    before: ApMetrics = Field(description="The base, on the validation split.")
    after: ApMetrics = Field(description="The best adapter, on the validation split.")
    test_before: ApMetrics | None = Field(default=None, description="The base, on the test split.")
    test_after: ApMetrics | None = Field(default=None, description="The best adapter, on the test split.")
    comparison: Comparison | None = Field(
        default=None, description="Intervals on the validation split; None with fewer than two images."
    )
    test_comparison: Comparison | None = Field(default=None, description="Intervals on the test split.")
    split_check: SplitCheck | None = Field(default=None, description="None: the splits were not compared.")
    conclusion: str = Field(
        default="", description="What came of it in a sentence, by the test split where there is one."
    )
    from_detector_before: ApMetrics | None = Field(
        default=None,
        description="Masks of the base for the boxes that the tuned detector of the run finds in the "
        "validation split, with its scores.",
    )
    from_detector_after: ApMetrics | None = Field(default=None, description="The same of the best adapter.")
    improved: bool | None = Field(
        default=None,
        description="The adapter is better than its base: its AP is higher on the test split, or on the validation "
        "split if there is no other. None if it is higher by no more than chance may bring, could not be measured, or "
        "was measured on fewer than six images.",
    )
    thresholds: dict[str, float] = Field(
        default={},
        description="By class name, the score from which on detections of the best adapter are kept: the one with the "
        "highest F1 on the validation split. A class with nothing to choose by has the median of the others.",
    )
    images_skipped: int = Field(default=0, description="Images that cannot be decoded, and so were left out.")
    objects_skipped: int = Field(
        default=0,
        description="Objects of these, those outside an image whose size the annotations do not give, and those whose "
        "box and mask contradict each other.",
    )
    skipped_examples: tuple[str, ...] = Field(default=(), description="The first few, with what is wrong with them.")
    quality: dict[str, ClassQuality] = Field(default={}, description="By class name, at these thresholds.")
    score_curve_before: ScoreCurve | None = Field(
        default=None, description="The base, all classes together, on the validation split; None without detections."
    )
    score_curve_after: ScoreCurve | None = Field(default=None, description="The same of the best adapter.")
    class_score_curves: dict[str, ScoreCurve] = Field(
        default={}, description="By class name, the best adapter, for the most frequent classes."
    )
    confusion_before: Confusion | None = Field(default=None, description="The base at its own best thresholds.")
    confusion_after: Confusion | None = Field(default=None, description="The best adapter at `thresholds`.")
    validation_pages: int = Field(
        default=0, description="Pages in `validation/` that show every validation image with its detections."
    )
    retention: Retention | None = Field(default=None, description="None if no prompts were left to ask for.")
    reference: Reference | None = Field(
        default=None, description="The teacher whose labels a student learned, on the same images; None: no teacher."
    )
    labelled_images: int = Field(
        default=0, description="Training images with labels of teachers; all metrics are measured on human labels."
    )
    strength: float = Field(
        default=1.0,
        description="Scale of the adapter's update, 0 to 1, chosen after training and contained in its files: all "
        "metrics of the adapter are those at this strength. 0: nothing was better than the base on the validation "
        "split, and the adapter gives the base's results.",
    )
    strength_curve: StrengthCurve | None = Field(
        default=None, description="Measurements that the strength was chosen by; None: by an earlier version."
    )
    trials: tuple[TrialResult, ...] = Field(
        default=(),
        description="Trials of a sweep; AP on the validation split has chosen one of them.",
    )
    cross_validation: CrossValidation | None = Field(
        default=None,
        description="With folds, `before` and `after` are of all their images, each detected by the adapter that was "
        "not trained on it: they estimate the published adapter, which was trained on all of them.",
    )
    history: tuple[HistoryPoint, ...] = ()
    best_epoch: float = 0
    epochs: float = Field(description="Passes over the training split that were made.")
    steps: int
    seconds: float = Field(description="Wall-clock time of training and its evaluations, of all trials or folds.")
    peak_memory_bytes: int = Field(description="Of the GPU, or of the process on a CPU, evaluations included.")
    step_memory_bytes: int = Field(
        default=0, description="The most that the tensors of a step held; on a CPU, of the first step."
    )
    predicted_memory_bytes: int | None = Field(
        default=None, description="What a step was expected to hold; None of a base that is not known."
    )
    trainable_parameters: int
    adapter: AdapterFile

"""Measure an adapter at several strengths after training, and choose one.

Nothing is stored: a run that is killed meanwhile resumes after its last step and measures the same again. All processes
evaluate their share of the images, and choose by the same metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from engine.config import TrainingConfig
from engine.evaluation.evaluate import Evaluation
from engine.evaluation.retention import retention
from engine.evaluation.strength import choose_strength
from engine.models.base import Teacher
from engine.models.lora import set_strength
from engine.models.model import Model
from engine.results.metrics import ApMetrics
from engine.results.types import Retention, StrengthCurve, StrengthPoint
from engine.training.data.annotated_splits import SplitData
from engine.training.data.retention_data import RetentionData
from engine.training.evaluation import Evaluator
from engine.traits import ModelTraits

CURVE_IMAGES = 200
"""Maximum images of the validation split, and of the retention images, for each strength."""


@dataclass(frozen=True, eq=False)
class Strength:
    """The chosen strength and its measurements.

    Attributes:
        value: Scale of the adapter's update, 0 to 1.
        curve: Measurements that it was chosen by; None for a student, which has no strength.
        val: Evaluation on the whole validation split at this strength.
        retention: Retention at this strength; None: it was not measured, or not on all images.
    """

    value: float
    curve: StrengthCurve | None
    val: Evaluation
    retention: Retention | None = None


@dataclass(eq=False)
class _Measured:
    """Evaluations of the validation split, or a part of it, and metrics of the retention images, by strength."""

    split: SplitData
    base_ap: float
    val: dict[float, Evaluation] = field(default_factory=dict)
    retained: dict[float, ApMetrics] = field(default_factory=dict)
    retention_split: SplitData | None = None

    def retain(self, evaluator: Evaluator, strength: float) -> None:
        """Measure retention at a strength, if there are images for it."""
        if self.retention_split is not None:
            teacher = evaluator.teacher.asking(self.retention_split.dataset.classes)
            self.retained[strength] = _evaluate(evaluator, self.retention_split, strength, teacher=teacher).metrics

    def measure(self, evaluator: Evaluator, strengths: Sequence[float], note: Callable[[str], None]) -> None:
        """Measure AP and retention at each strength, as far as they are not known."""
        for strength in strengths:
            if strength not in self.val:
                self.val[strength] = _evaluate(evaluator, self.split, strength)
            if strength not in self.retained:
                self.retain(evaluator, strength)
            note(self.message(strength))

    def curve(self, reason: str, min_retention: float | None) -> StrengthCurve:
        return StrengthCurve(
            images=len(self.split.paths),
            retention_images=0 if self.retention_split is None else len(self.retention_split.paths),
            points=self.points(),
            reason=reason,
            min_retention=min_retention,
        )

    def points(self) -> tuple[StrengthPoint, ...]:
        aps = {0.0: self.base_ap} | {strength: found.metrics.ap for strength, found in self.val.items()}
        return tuple(StrengthPoint(strength=s, ap=aps[s], retention=self.share(s)) for s in sorted(aps))

    def share(self, strength: float) -> float | None:
        share = self.retention(strength, "").share if strength in self.retained else -1.0
        return share if share >= 0 else None

    def message(self, strength: float) -> str:
        share = self.share(strength)
        kept = "" if share is None else f", {share:.0%} of the base's zero-shot AP kept"
        return f"strength {strength:g}: AP {self.val[strength].metrics.ap:.3f}{kept}"

    def retention(self, strength: float, source: str) -> Retention:
        return retention(source, base=self.retained[0.0], adapted=self.retained[strength])


def find_strength(
    evaluator: Evaluator,
    val: SplitData,
    *,
    before: Mapping[str, ApMetrics],
    retention_data: RetentionData | None,
    training: TrainingConfig,
    note: Callable[[str], None],
    known: Mapping[float, Evaluation] | None = None,
) -> Strength:
    """Measure the teacher's adapter, choose its strength, and set it.

    The result is never worse than the base on the validation split: strength 0 is the base. A large split is measured
    in part; if the strength chosen by the part is not better than the base on the whole split, all strengths are
    measured on the whole split, and the same rule chooses again. So 0 is chosen only by the whole split.

    Args:
        evaluator: Evaluates the teacher, which has its best adapter.
        val: The validation split.
        before: Metrics of the base by split, ``val`` among them.
        retention_data: Images that measure retention; None if it cannot be measured.
        training: Strengths to measure, and the retention to keep.
        note: Receives messages.
        known: Evaluations of the validation split by strength, by other adapters; None: this one is evaluated.

    Raises:
        InterruptedTrainingError: SIGTERM or Ctrl-C arrived.
    """
    if not evaluator.teacher.name.traits.adapts_base:
        return Strength(1.0, None, evaluator.evaluate(val) if known is None else known[1.0])
    part, base_ap = val if known is not None else val.part(CURVE_IMAGES), before["val"].ap
    part_ap = base_ap if part is val else _evaluate(evaluator, part, 0.0).metrics.ap
    strengths = sorted(set(training.strengths), reverse=True)
    measured = _Measured(part, part_ap, {} if known is None else {one: known[one] for one in strengths})
    if retention_data is not None and (len(strengths) > 1 or training.min_retention is not None):
        measured.retention_split = retention_data.split.part(CURVE_IMAGES)
        measured.retain(evaluator, 0.0)
    measured.measure(evaluator, strengths, note)
    value, reason = choose_strength(measured.points(), min_retention=training.min_retention)
    whole = measured if part is val else replace(measured, split=val, base_ap=base_ap, val={})
    if whole is not measured:
        if value > 0:
            whole.val[value] = _evaluate(evaluator, val, value)
        if value == 0 or 0 <= whole.val[value].metrics.ap <= base_ap:
            note(f"{_no_gain(value, len(part.paths))}: measuring all strengths on all {len(val.paths)} images")
            whole.measure(evaluator, strengths, note)
            measured = whole
            value, reason = choose_strength(measured.points(), min_retention=training.min_retention)
    found = whole.val.get(value) or _evaluate(evaluator, val, value)
    apply_strength(evaluator.teacher, value)
    curve = measured.curve(reason, training.min_retention)
    if retention_data is None or measured.retention_split is not retention_data.split:
        return Strength(value, curve, found)
    return Strength(value, curve, found, measured.retention(value, retention_data.source))


def _no_gain(value: float, images: int) -> str:
    if value == 0:
        return f"no strength is better than the base on {images} images"
    return f"{value:g} is better than the base on {images} images, but not on all"


def _evaluate(evaluator: Evaluator, split: SplitData, strength: float, *, teacher: Model | None = None) -> Evaluation:
    """Evaluate a split at a strength, which stays set."""
    apply_strength(evaluator.teacher, strength)
    return evaluator.evaluate(split, teacher=teacher)


def strengths_of(traits: ModelTraits, training: TrainingConfig) -> tuple[float, ...]:
    """Return the strengths to choose from: only 1 for a student."""
    return training.strengths if traits.adapts_base else (1.0,)


def apply_strength(model: Model, strength: float) -> None:
    """Scale the adapter of a teacher; a student has no strength."""
    if isinstance(model, Teacher):
        set_strength(model, strength)

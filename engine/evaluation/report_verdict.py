"""Conclusion of the report about a teacher: better, same or worse, with caveats."""

from __future__ import annotations

from dataclasses import dataclass

from engine.evaluation.conclusion import conclude_result, mean_iou_change
from engine.evaluation.report_metrics import Row, number, signed, text
from engine.evaluation.report_sections import retention_remark
from engine.results.low_retention import retention_warning
from engine.results.metric_table import ceiling_sentence
from engine.results.metrics import Interval
from engine.results.no_gain import ADVICE, AS_THE_BASE
from engine.results.reference import Reference
from engine.results.types import TeacherResult

FEW_IMAGES = 50
"""Below this number of images, AP varies by hundredths by chance."""


@dataclass(frozen=True)
class Verdict:
    """Conclusion about a teacher.

    Attributes:
        kind: ``better``, ``same``, ``worse`` or ``unknown``.
        row: AP before and after, or of teacher and student.
        sentence: The conclusion in one sentence.
        remarks: Caveats and suggestions, as sentences.
    """

    kind: str
    row: Row
    sentence: str
    remarks: tuple[str, ...]


def verdict(result: TeacherResult) -> Verdict:
    """Judge a teacher on the test split if it exists, since the adapter was selected on the validation split."""
    title, adapts = result.teacher.traits.title, result.teacher.traits.adapts_base
    tested = result.test_before is not None and result.test_after is not None
    before, after = (result.test_before or result.before), (result.test_after or result.after)
    if (teacher := result.reference) is not None:
        before = teacher.test if tested and teacher.test is not None else teacher.val
    row = Row("AP", "", number(before.ap), number(after.ap))
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
    kind: str = concluded.kind
    if teacher is not None:
        kind, sentence = _beside_teacher(result, teacher, row, where=where, tested=tested)
    elif result.strength == 0:
        sentence = f"{title}: {AS_THE_BASE}. AP {row.before:.2f} on {where}."
        remarks.append(f"{ADVICE}.")
    elif kind == "better" or (kind == "same" and not adapts):
        sentence = f"{title}: {numbers}."
    elif kind == "same":
        sentence = f"{title} shows no measurable change: {numbers}."
        remarks += ["On these images the base model performs as well as this adapter."] if adapts else []
    else:
        sentence = f"{title} got worse: {numbers}."
        remarks.append("Use the base model, not this adapter.")
    if concluded.remark:
        remarks.append(f"{concluded.remark}.")
    if ceiling := ceiling_sentence(after):
        remarks.append(f"{ceiling}.")
    if not tested:
        remarks.append(
            f"{'The epoch and the strength of the adapter were' if adapts else 'The epoch was'} selected on these "
            "images, so AP on new images may be slightly lower."
        )
    if 0 < result.strength < 1 and result.strength_curve is not None:
        remarks.append(f"The adapter is published with strength {result.strength:g}: {result.strength_curve.reason}.")
    if (said := retention_warning(result)) is not None:
        remarks.append(f"{said[0].upper()}{said[1:]}.")
    if result.from_detector_before is not None and result.from_detector_after is not None:
        before_ap, after_ap = (
            text(number(one.ap)) for one in (result.from_detector_before, result.from_detector_after)
        )
        remarks.append(f"Prompted with the boxes of the tuned detector, as in labelling: AP {before_ap} → {after_ap}.")
    if result.images_skipped or result.objects_skipped:
        remarks.append(
            f"{result.images_skipped:,} images and {result.objects_skipped:,} objects were not usable and were skipped."
        )
    if result.labelled_images:
        remarks.append(
            f"Teachers labelled {result.labelled_images:,} of the training images; all metrics are measured on human "
            "labels."
        )
    if teacher is not None and teacher.trained_on:
        remarks.append(
            f"The teacher was trained on {teacher.trained_on:,} of the measured images, so its AP is too high here."
        )
    if after.images and after.images < FEW_IMAGES:
        remarks.append(f"With {after.images} images, a difference of a few hundredths can be chance.")
    if (warning := retention_remark(result.retention)) is not None:
        remarks.append(warning)
    if result.strength > 0 and 0 < result.epochs <= result.best_epoch:
        remarks.append("The last epoch was the best one: more epochs may improve AP further.")
    return Verdict(kind, row, sentence, tuple(remarks))


def _beside_teacher(
    result: TeacherResult, teacher: Reference, row: Row, *, where: str, tested: bool
) -> tuple[str, str]:
    """Return kind and sentence of a student next to its teacher. A lower AP than the teacher's is not "worse"."""
    student, reached = result.teacher.traits.title, ""
    if row.before:
        reached = f", {(row.after or 0) / row.before:.0%} of that of its teacher {teacher.teacher.traits.title}"
    comparison = teacher.test_comparison if tested else teacher.comparison
    interval = "" if comparison is None else f"; the difference is {_range(comparison.difference)} with 95 % confidence"
    better = comparison is not None and comparison.difference.low > 0
    sentence = f"{student}: AP {row.after:.2f}{reached} ({row.before:.2f}) on {where}{interval}."
    return "better" if better else "same", sentence


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
    return f"{signed(interval.low)} to {signed(interval.high)}"

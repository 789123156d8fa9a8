"""Evaluate the teacher of a student on the student's validation and test split, for the two side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from engine.config import DistillConfig
from engine.dataset.splits.trained_images import ListedImages, listed_images
from engine.dataset.types import Detections, Sample
from engine.errors import BaseModelError, StorageError
from engine.evaluation.evaluate import Evaluation
from engine.evaluation.intervals import compare_ap
from engine.evaluation.thresholds import OperatingPoint, operating_point
from engine.models.adapter_files import find_adapters
from engine.models.base import Teacher
from engine.models.predictor import Predictor
from engine.registry import ModelName
from engine.results.metrics import Comparison
from engine.results.reference import FoundBy, Reference
from engine.teachers import load_adapted
from engine.training.context import TrainingContext
from engine.training.data.splits import Splits
from engine.training.evaluation import EvaluationReport, Evaluator, ReferenceEvaluation


class Renamed:
    """A predictor whose class indices are those of another list of classes; objects of other classes are left out."""

    def __init__(self, predictor: Predictor, classes: Sequence[str]) -> None:
        self.predictor, self.classes, self.frame = predictor, tuple(classes), predictor.frame
        self.iou_type = predictor.iou_type
        known = {name: index for index, name in enumerate(classes)}
        self.index_of = np.asarray([known.get(name, -1) for name in predictor.classes], np.int64)

    def predict(self, samples: Sequence[Sample]) -> list[Detections]:
        """Detect in original images; see :meth:`engine.models.model.Model.predict`."""
        return [self._renamed(found) for found in self.predictor.predict(samples)]

    def _renamed(self, found: Detections) -> Detections:
        found = replace(found, class_indices=self.index_of[found.class_indices])
        return found.select(np.flatnonzero(found.class_indices >= 0))


def evaluate_reference(context: TrainingContext, evaluator: Evaluator, splits: Splits) -> ReferenceEvaluation | None:
    """Evaluate the teacher of a distillation, with all processes.

    Returns:
        None if there is none for the student's annotations, or its files cannot be read or loaded: the student is
        published without.
    """
    labels = context.config.labels if isinstance(context.config, DistillConfig) else None
    if labels is None or labels.teacher is None:
        return None
    run, loaded = labels.teacher, list[Teacher]()

    def load() -> tuple[ModelName, str, ListedImages | None] | None:
        try:
            found = find_adapters(run, storage=context.storage)
            alike = [name for name in found if name.traits.annotations == context.name.traits.annotations]
            if not alike:
                return None
            uri = found[alike[0]]
            listed = listed_images(uri, "train", context.storage)
            loaded.append(_load(context, evaluator, uri))
        except (BaseModelError, StorageError) as error:
            context.note(f"the student is not compared with its teacher: {error}")
            return None
        return alike[0], uri, listed

    adapter = context.processes.decided(load)
    if adapter is None:
        return None
    name, uri, listed = adapter
    context.note(f"measuring {name} of {run} on the same images")
    teacher = Renamed(loaded[0] if loaded else _load(context, evaluator, uri), splits.val.dataset.classes)
    val = evaluator.evaluate(splits.val, teacher=teacher)
    test = None if splits.test is None else evaluator.evaluate(splits.test, teacher=teacher)
    return ReferenceEvaluation(name, uri, val, test, _trained_on(listed, splits))


def _load(context: TrainingContext, evaluator: Evaluator, uri: str) -> Teacher:
    return load_adapted(uri, storage=context.storage, cache=context.cache, device=evaluator.teacher.device)


def _trained_on(listed: ListedImages | None, splits: Splits) -> int:
    if listed is None:
        return 0
    measured = {"val": splits.val} | ({} if splits.test is None else {"test": splits.test})
    return sum(
        listed.has(image.file_name, splits.marks.get(name, {}).get(image.file_name, ""))
        for name, split in measured.items()
        for image in split.dataset.images
    )


def reference_result(evaluation: EvaluationReport, student: OperatingPoint) -> Reference | None:
    """Return the result of the teacher, compared with the student at its thresholds; None without a teacher."""
    seen = evaluation.reference
    if seen is None:
        return None
    teacher = operating_point(seen.val.truth, seen.val.detections)
    return Reference(
        teacher=seen.name,
        uri=seen.uri,
        val=seen.val.metrics,
        test=None if seen.test is None else seen.test.metrics,
        comparison=_compared(seen.val, evaluation.val_after),
        test_comparison=_compared(seen.test, evaluation.test_after),
        confusion=teacher.confusion,
        score_curve=teacher.curve,
        found_by=found_by(teacher, student, evaluation.val_after),
        trained_on=seen.trained_on,
    )


def found_by(teacher: OperatingPoint, student: OperatingPoint, measured: Evaluation) -> FoundBy:
    """Count the objects that both, one or none of two models find at their own thresholds."""
    counts: Counter[tuple[bool, bool]] = Counter()
    missed: Counter[str] = Counter()
    classes = measured.truth.dataset.classes
    for objects, by_teacher, by_student in zip(measured.truth.objects, teacher.found, student.found, strict=True):
        for index, one, other in zip(objects.class_indices.tolist(), by_teacher, by_student, strict=True):
            counts[bool(one), bool(other)] += 1
            missed[classes[index]] += bool(one and not other)
    return FoundBy(
        both=counts[True, True],
        teacher_only=counts[True, False],
        student_only=counts[False, True],
        neither=counts[False, False],
        missed_by_class={name: count for name, count in missed.most_common() if count},
    )


def _compared(teacher: Evaluation | None, student: Evaluation | None) -> Comparison | None:
    if teacher is None or student is None:
        return None
    return compare_ap(student.truth, teacher.detections, student.detections)

"""Evaluate a teacher, base and adapted, with all processes of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.config import ModelSettings
from engine.dataset.types import Detections, Sample
from engine.evaluation.coco_ap import coco_ap
from engine.evaluation.evaluate import Evaluation, compute_metrics, predict_images, with_sizes
from engine.evaluation.ground_truth import GroundTruth, GroundTruths
from engine.evaluation.retention import retention
from engine.models.model import Model
from engine.models.predictor import Predictor
from engine.registry import ModelName
from engine.results.metrics import ApMetrics
from engine.results.types import Retention
from engine.training.data.annotated_splits import SplitData
from engine.training.data.box_prompts import DetectedBoxes, predict_masks
from engine.training.data.retention_data import RetentionData
from engine.training.data.splits import Splits
from engine.training.device import Stop, memory_errors
from engine.training.distributed import Processes


@dataclass(frozen=True)
class Evaluator:
    """Evaluates a teacher on splits.

    Each process evaluates its share of the images. All processes get the metrics, the first also the detections.

    Attributes:
        teacher: The trained model.
        settings: Its section of the configuration.
        processes: All processes of the run.
        stop: Set by SIGTERM, which ends an evaluation.
        micro_batch_size: Images per forward pass.
        truths: Ground truth of the splits evaluated so far.
    """

    teacher: Model
    settings: ModelSettings
    processes: Processes
    stop: Stop
    micro_batch_size: int
    truths: GroundTruths

    def evaluate(self, split: SplitData, *, teacher: Predictor | None = None) -> Evaluation:
        """Evaluate the teacher as it is, or another model, on a split."""
        teacher = teacher or self.teacher

        def load(index: int) -> Sample:
            self.stop.check()
            return split.sample(index, with_masks=False)  # masks are compared as run lengths

        indices = self.processes.rank.share(range(len(split.dataset)))
        with memory_errors(self.teacher, self.settings):
            seen = predict_images(teacher, split.dataset, load, indices=indices, batch_size=self.micro_batch_size)
        seen = self.processes.gather(seen)
        detections = [found for _, found in seen]

        def truth() -> GroundTruth:
            return self.truths.of(with_sizes(split.dataset, seen), teacher.iou_type)

        metrics = self.processes.decided(lambda: compute_metrics(truth(), detections))
        return Evaluation(metrics, detections, truth())

    def base(self, splits: Mapping[str, SplitData]) -> Baseline:
        """Evaluate the base model on the given splits."""
        with self.teacher.untrained():
            val = self.evaluate(splits["val"])
            test = self.evaluate(splits["test"]) if "test" in splits else None
        metrics = {"val": val.metrics} | ({} if test is None else {"test": test.metrics})
        return Baseline(metrics, val, test)

    def adapted(
        self,
        splits: Splits,
        *,
        before: Mapping[str, ApMetrics],
        base: Baseline | None,
        val_after: Evaluation,
        detected: DetectedBoxes | None,
        retention_data: RetentionData | None,
        retention: Retention | None,
    ) -> EvaluationReport:
        """Evaluate the best adapter, and the base unless its evaluation is given.

        Args:
            splits: Data of the run.
            before: Metrics of the base by split.
            base: Evaluation of the base; None for a resumed run.
            val_after: Evaluation of the adapter on the validation split.
            detected: Box prompts that another teacher detected, if there are any.
            retention_data: Images that measure retention; None if it is not measured.
            retention: Retention, if it is known.
        """
        test_after = None if splits.test is None else self.evaluate(splits.test)
        if base is None:
            with_test = {} if splits.test is None else {"test": splits.test}
            base = self.base({"val": splits.val} | with_test)
        by_detector = None
        if detected is not None:
            by_detector = self.by_detector(splits.val, detected.val, truth=val_after.truth)
        if retention is None and retention_data is not None:
            retention = self.retention(retention_data)
        return EvaluationReport(before, base.val, val_after, base.test, test_after, by_detector, retention)

    def by_detector(
        self, split: SplitData, boxes: tuple[Detections, ...], *, truth: GroundTruth
    ) -> tuple[ApMetrics, ApMetrics]:
        """Evaluate base and adapted SAM with a detector's boxes as prompts.

        Args:
            split: The images.
            boxes: Detections in each of them.
            truth: Ground truth of the split.
        """

        def measure() -> ApMetrics:
            indices, size = self.processes.rank.share(range(len(split.dataset))), self.micro_batch_size
            seen: list[Detections] = []
            for start in range(0, len(indices), size):
                self.stop.check()
                some = indices[start : start + size]
                samples = [split.sample(i, with_masks=False) for i in some]
                with memory_errors(self.teacher, self.settings):
                    seen += predict_masks(self.teacher, samples, [boxes[i] for i in some])
            seen = self.processes.gather(seen)
            return self.processes.decided(lambda: coco_ap(truth, seen))

        with self.teacher.untrained():
            before = measure()
        return before, measure()

    def retention(self, retention_data: RetentionData) -> Retention:
        """Measure retention: prompt base and adapted teacher for classes that the dataset does not have."""
        teacher = self.teacher.asking(retention_data.split.dataset.classes)
        adapted = self.evaluate(retention_data.split, teacher=teacher).metrics
        with teacher.untrained():
            base = self.evaluate(retention_data.split, teacher=teacher).metrics
        return retention(retention_data.source, base=base, adapted=adapted)


@dataclass(frozen=True, eq=False)
class Baseline:
    """Evaluation of the base model before training.

    Attributes:
        metrics: Metrics of the splits ``val`` and, if it exists, ``test``.
        val: Evaluation on ``val``.
        test: Evaluation on ``test``, if it exists.
    """

    metrics: Mapping[str, ApMetrics]
    val: Evaluation
    test: Evaluation | None = None


@dataclass(frozen=True, eq=False)
class ReferenceEvaluation:
    """Evaluation of the teacher that a student is compared with.

    Attributes:
        name: Name of the teacher.
        uri: Folder of its adapter.
        val: Evaluation on ``val``.
        test: Evaluation on ``test``, if it exists.
        trained_on: Images of both that it was trained on.
    """

    name: ModelName
    uri: str
    val: Evaluation
    test: Evaluation | None
    trained_on: int


@dataclass(frozen=True, eq=False)
class EvaluationReport:
    """All evaluations of a teacher.

    Attributes:
        before: Metrics of the base on the splits ``val`` and, if it exists, ``test``.
        val_before: The base on ``val``.
        val_after: The best adapter on ``val``.
        test_before: The base on ``test``.
        test_after: The best adapter on ``test``.
        by_detector: See :meth:`Evaluator.by_detector`.
        retention: See :meth:`Evaluator.retention`.
        reference: The teacher that a student is compared with.
    """

    before: Mapping[str, ApMetrics]
    val_before: Evaluation
    val_after: Evaluation
    test_before: Evaluation | None
    test_after: Evaluation | None
    by_detector: tuple[ApMetrics, ApMetrics] | None
    retention: Retention | None
    reference: ReferenceEvaluation | None = None

"""Evaluate a teacher, base and adapted, with all processes, and write the result files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from engine.config import TeacherSettings
from engine.dataset.types import Detections, Sample
from engine.estimate.cost_model import StepEstimate
from engine.evaluation.coco_ap import coco_ap
from engine.evaluation.conclusion import conclude_result, improved
from engine.evaluation.evaluate import Evaluation, compute_metrics, predict_images, with_sizes
from engine.evaluation.example_images import choose_samples, make_record
from engine.evaluation.ground_truth import GroundTruth, GroundTruths
from engine.evaluation.intervals import compare_ap
from engine.evaluation.retention import retention
from engine.evaluation.thresholds import operating_point
from engine.evaluation.validation_pages import write_pages
from engine.layout import ADAPTER, RESULT, SAMPLE_IMAGES, SAMPLES, VALIDATION_PAGES
from engine.models.lora import adapter_off, trainable_parameters
from engine.results.types import AdapterFile, ApMetrics, Comparison, Retention, TeacherResult
from engine.teachers import LocalModel, Teacher
from engine.training.box_prompts import DetectedBoxes, masks_of
from engine.training.checkpoint import Progress
from engine.training.device import Stop, memory_errors
from engine.training.distributed import Processes
from engine.training.retention_data import RetentionData
from engine.training.sampler import Steps
from engine.training.shared_images import write_lists
from engine.training.splits import SplitData, Splits


@dataclass(frozen=True)
class Evaluator:
    """Evaluates a teacher on splits.

    Each process evaluates its share of the images. All processes get the metrics, the first also the detections.

    Attributes:
        teacher: With its adapter.
        settings: The teacher's section of the configuration.
        processes: All processes of the run.
        stop: Set by SIGTERM, which ends an evaluation.
        micro_batch_size: Images per forward pass.
        truths: Ground truth of the splits evaluated so far.
    """

    teacher: Teacher
    settings: TeacherSettings
    processes: Processes
    stop: Stop
    micro_batch_size: int
    truths: GroundTruths

    def of(self, part: SplitData, *, teacher: Teacher | None = None) -> Evaluation:
        """Evaluate the teacher as it is, or another one that shares its model, on a split."""
        teacher = teacher or self.teacher

        def load(index: int) -> Sample:
            self.stop.check()
            return part.sample(index, with_masks=False)  # masks are compared as run lengths

        indices = self.processes.place.share(range(len(part.dataset)))
        with memory_errors(teacher, self.settings):
            seen = predict_images(teacher, part.dataset, load, indices=indices, batch_size=self.micro_batch_size)
        seen = self.processes.gather(seen)
        detections = [found for _, found in seen]

        def truth() -> GroundTruth:
            return self.truths.of(with_sizes(part.dataset, seen), teacher.iou_type)

        metrics = self.processes.decided(lambda: compute_metrics(truth(), detections))
        return Evaluation(metrics, detections, truth())

    def base(self, splits: Mapping[str, SplitData]) -> Baseline:
        """Evaluate the base model on the given splits."""
        with adapter_off(self.teacher):
            seen = self.of(splits["val"])
            metrics, tested = {"val": seen.metrics}, None
            if "test" in splits:
                tested = self.of(splits["test"])
                metrics["test"] = tested.metrics
        return Baseline(metrics, seen, tested)

    def adapted(
        self,
        splits: Splits,
        *,
        before: Mapping[str, ApMetrics],
        base: Baseline | None,
        detected: DetectedBoxes | None,
        retention_data: RetentionData | None,
    ) -> EvaluationReport:
        """Evaluate the best adapter, and the base unless its evaluation is given."""
        seen_after = self.of(splits.val)
        tested_after = None if splits.test is None else self.of(splits.test)
        if base is None:
            with_test = {} if splits.test is None else {"test": splits.test}
            base = self.base({"val": splits.val} | with_test)
        by_detector = None
        if detected is not None:
            by_detector = self.by_detector(splits.val, detected.val, truth=seen_after.truth)
        retained = None if retention_data is None else self.retention(retention_data)
        return EvaluationReport(before, base.seen, seen_after, base.tested, tested_after, by_detector, retained)

    def by_detector(
        self, part: SplitData, boxes: tuple[Detections, ...], *, truth: GroundTruth
    ) -> tuple[ApMetrics, ApMetrics]:
        """Evaluate base and adapted SAM with a detector's boxes as prompts.

        Args:
            part: The images.
            boxes: Detections in each of them.
            truth: Ground truth of the split.
        """

        def measure() -> ApMetrics:
            indices, size = self.processes.place.share(range(len(part.dataset))), self.micro_batch_size
            seen: list[Detections] = []
            for start in range(0, len(indices), size):
                self.stop.check()
                some = indices[start : start + size]
                samples = [part.sample(i, with_masks=False) for i in some]
                with memory_errors(self.teacher, self.settings):
                    seen += masks_of(self.teacher, samples, [boxes[i] for i in some])
            seen = self.processes.gather(seen)
            return self.processes.decided(lambda: coco_ap(truth, seen))

        with adapter_off(self.teacher):
            before = measure()
        return before, measure()

    def retention(self, retention_data: RetentionData) -> Retention:
        """Measure retention: prompt base and adapted teacher for classes that the dataset does not have."""
        teacher = self.teacher.asking(retention_data.part.dataset.classes)
        adapted = self.of(retention_data.part, teacher=teacher).metrics
        with adapter_off(teacher):
            base = self.of(retention_data.part, teacher=teacher).metrics
        return retention(retention_data.source, base=base, adapted=adapted)


@dataclass(frozen=True, eq=False)
class Baseline:
    """Evaluation of the base model before training.

    Attributes:
        metrics: Metrics of the splits ``val`` and, if it exists, ``test``.
        seen: Evaluation on ``val``.
        tested: Evaluation on ``test``, if it exists.
    """

    metrics: Mapping[str, ApMetrics]
    seen: Evaluation
    tested: Evaluation | None = None


@dataclass(frozen=True, eq=False)
class EvaluationReport:
    """All evaluations of a teacher.

    Attributes:
        before: Metrics of the base on the splits ``val`` and, if it exists, ``test``.
        seen_before: The base on ``val``.
        seen_after: The best adapter on ``val``.
        tested_before: The base on ``test``.
        tested_after: The best adapter on ``test``.
        by_detector: See :meth:`Evaluator.by_detector`.
        retained: See :meth:`Evaluator.retention`.
    """

    before: Mapping[str, ApMetrics]
    seen_before: Evaluation
    seen_after: Evaluation
    tested_before: Evaluation | None
    tested_after: Evaluation | None
    by_detector: tuple[ApMetrics, ApMetrics] | None
    retained: Retention | None


def write_result(
    folder: Path,
    evaluation: EvaluationReport,
    progress: Progress,
    *,
    teacher: Teacher,
    base: LocalModel,
    base_model: str,
    splits: Splits,
    steps: Steps,
    plan: StepEstimate | None,
) -> TeacherResult:
    """Write example images with detections, validation pages and ``result.json`` to the adapter's ``folder``."""
    truth = evaluation.seen_after.truth
    write_samples(
        folder,
        truth,
        partial(splits.val.sample, with_masks=False),
        before=evaluation.seen_before.detections,
        after=evaluation.seen_after.detections,
    )
    pages = write_pages(
        folder / VALIDATION_PAGES,
        truth,
        partial(splits.val.sample, with_masks=False),
        title=teacher.name.value,
        before=evaluation.seen_before.detections,
        after=evaluation.seen_after.detections,
    )
    at_first, adapted = (
        operating_point(truth, one.detections) for one in (evaluation.seen_before, evaluation.seen_after)
    )
    adapter = folder / ADAPTER
    content = adapter.read_bytes()
    result = TeacherResult(
        teacher=teacher.name,
        base_model=base_model,
        base_revision=base.revision,
        before=evaluation.before["val"],
        after=evaluation.seen_after.metrics,
        test_before=evaluation.before.get("test"),
        test_after=evaluation.tested_after and evaluation.tested_after.metrics,
        comparison=_compared(evaluation.seen_before, evaluation.seen_after),
        test_comparison=_compared(evaluation.tested_before, evaluation.tested_after),
        from_detector_before=evaluation.by_detector and evaluation.by_detector[0],
        from_detector_after=evaluation.by_detector and evaluation.by_detector[1],
        thresholds=adapted.thresholds,
        split_check=splits.shared,
        images_skipped=len(splits.unreadable.faults),
        objects_skipped=splits.objects_skipped,
        skipped_examples=splits.unreadable.examples,
        quality=adapted.quality,
        score_curve_before=at_first.curve,
        score_curve_after=adapted.curve,
        class_score_curves=adapted.class_curves,
        confusion_before=at_first.confusion,
        confusion_after=adapted.confusion,
        validation_pages=pages,
        retention=evaluation.retained,
        history=progress.history,
        best_epoch=steps.epochs_at(progress.best_step),
        epochs=steps.epochs_at(progress.step),
        steps=progress.step,
        seconds=progress.seconds,
        peak_memory_bytes=progress.peak_memory_bytes,
        step_memory_bytes=progress.step_memory_bytes,
        predicted_memory_bytes=None if plan is None else plan.memory_bytes,
        trainable_parameters=sum(p.numel() for p in trainable_parameters(teacher).values()),
        adapter=AdapterFile(uri=str(adapter), sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content)),
    )
    concluded = {"conclusion": conclude_result(result).sentence, "improved": improved(result)}
    result = result.model_copy(update=concluded)
    of_parts = {"train": splits.train, "val": splits.val} | ({} if splits.test is None else {"test": splits.test})
    write_lists(folder, {name: part.dataset for name, part in of_parts.items()}, splits.marks)
    (folder / RESULT).write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return result


def _compared(before: Evaluation | None, after: Evaluation | None) -> Comparison | None:
    if before is None or after is None:
        return None
    return compare_ap(after.truth, before.detections, after.detections)


LONGEST_SIDE = 800
"""Maximum side of stored example images, in pixels: large enough to read, small enough to embed in one page."""


def write_samples(
    folder: Path,
    truth: GroundTruth,
    load: Callable[[int], Sample],
    *,
    before: Sequence[Detections],
    after: Sequence[Detections],
) -> None:
    """Choose example images and write them with ground truth and detections.

    Args:
        folder: Folder of the teacher.
        truth: Ground truth of the validation split.
        load: Returns the sample of an image index.
        before: Detections of the base in each image.
        after: Detections of the adapted teacher.
    """
    images = folder / SAMPLE_IMAGES
    images.mkdir(parents=True, exist_ok=True)
    records = [make_record(truth, index, before[index], after[index]) for index in choose_samples(truth, before, after)]
    for record in records:
        image = Image.fromarray(load(record.index).image)
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        image.save(images / record.image_name, quality=85)
    values = [record.model_dump(mode="json") for record in records]
    (folder / SAMPLES).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

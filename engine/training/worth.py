"""What a teacher is worth, base and adapted: measured by all processes together, and what is left of it on the disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from engine.artifacts import ADAPTER, RESULT, VALIDATION_PAGES
from engine.config import TeacherSettings
from engine.dataset.types import CocoDataset, Detections, Sample
from engine.evaluation.coco_ap import coco_ap
from engine.evaluation.conclusion import conclude_result, improved
from engine.evaluation.evaluate import Evaluation, compare, look
from engine.evaluation.ground_truth import IouType
from engine.evaluation.intervals import compare_ap
from engine.evaluation.retention import retention
from engine.evaluation.thresholds import operation
from engine.evaluation.validation_pages import write_pages
from engine.fit import Predicted
from engine.results import AdapterFile, ApMetrics, Comparison, Retention, TeacherResult
from engine.teachers import LocalModel, Teacher
from engine.teachers.lora import adapter_off, trainable_parameters
from engine.training.checkpoint import Progress
from engine.training.detected import Detected, masks_of
from engine.training.parts import Part, Parts
from engine.training.probe import Probe
from engine.training.processes import Processes
from engine.training.runtime import Stop, memory_errors
from engine.training.samples import write_samples
from engine.training.shared_images import write_lists
from engine.training.steps import Steps


@dataclass(frozen=True)
class Measures:
    """How a teacher is measured.

    All processes look, each at its share, and learn the metrics; the first has the detections.

    Attributes:
        teacher: With its adapter.
        settings: The teacher's part of the configuration.
        processes: Those that train it together.
        stop: Set by SIGTERM, which ends a measurement.
        at_once: Images that the teacher is given at a time.
    """

    teacher: Teacher
    settings: TeacherSettings
    processes: Processes
    stop: Stop
    at_once: int

    def of(self, part: Part, *, teacher: Teacher | None = None) -> Evaluation:
        """The teacher as it is, or one that shares its model, on ``part``."""
        teacher = teacher or self.teacher

        def load(index: int) -> Sample:
            self.stop.check()
            return part.sample(index, with_masks=False)  # masks are compared as run lengths

        indices = self.processes.place.share(range(len(part.dataset)))
        with memory_errors(teacher, self.settings):
            seen = look(teacher, part.dataset, load, indices=indices, batch_size=self.at_once)
        seen = self.processes.gather(seen)
        metrics = self.processes.decided(lambda: compare(part.dataset, seen, iou_type=teacher.iou_type).metrics)
        dataset = replace(part.dataset, images=tuple(image for image, _ in seen))
        return Evaluation(metrics=metrics, detections=[found for _, found in seen], dataset=dataset)

    def base(self, parts: Mapping[str, Part]) -> Before:
        """The base on the parts that a teacher is measured on."""
        with adapter_off(self.teacher):
            seen = self.of(parts["val"])
            metrics, tested = {"val": seen.metrics}, None
            if "test" in parts:
                tested = self.of(parts["test"])
                metrics["test"] = tested.metrics
        return Before(metrics, seen, tested)

    def adapted(
        self,
        parts: Parts,
        *,
        before: Mapping[str, ApMetrics],
        base: Before | None,
        detected: Detected | None,
        probe: Probe | None,
    ) -> Worth:
        """The best adapter, beside the base; what the base sees may be known already."""
        seen_after = self.of(parts.val)
        tested_after = None if parts.test is None else self.of(parts.test)
        if base is None:
            with_test = {} if parts.test is None else {"test": parts.test}
            base = self.base({"val": parts.val} | with_test)
        by_detector = None
        if detected is not None:
            by_detector = self.by_detector(parts.val, detected.val, truth=seen_after.dataset)
        retained = None if probe is None else self.retention(probe)
        return Worth(before, base.seen, seen_after, base.tested, tested_after, by_detector, retained)

    def by_detector(
        self, part: Part, boxes: tuple[Detections, ...], *, truth: CocoDataset
    ) -> tuple[ApMetrics, ApMetrics]:
        """What base and adapted SAM make of a detector's boxes.

        Args:
            part: The images.
            boxes: Found in each of them.
            truth: Of the part, with the sizes of its images.
        """

        def measure() -> ApMetrics:
            indices, size = self.processes.place.share(range(len(part.dataset))), self.at_once
            seen: list[Detections] = []
            for start in range(0, len(indices), size):
                self.stop.check()
                some = indices[start : start + size]
                samples = [part.sample(i, with_masks=False) for i in some]
                with memory_errors(self.teacher, self.settings):
                    seen += masks_of(self.teacher, samples, [boxes[i] for i in some])
            seen = self.processes.gather(seen)
            return self.processes.decided(lambda: coco_ap(truth, seen, iou_type="segm"))

        with adapter_off(self.teacher):
            before = measure()
        return before, measure()

    def retention(self, probe: Probe) -> Retention:
        """What is left of the base's skill: both are asked for what the data does not have."""
        teacher = self.teacher.asking(probe.part.dataset.classes)
        adapted = self.of(probe.part, teacher=teacher).metrics
        with adapter_off(teacher):
            base = self.of(probe.part, teacher=teacher).metrics
        return retention(probe.source, base=base, adapted=adapted)


@dataclass(frozen=True, eq=False)
class Before:
    """What was measured of the base before training.

    Attributes:
        metrics: Of the validation part and, if there is one, of the test part.
        seen: On the validation part.
        tested: On the test part, if there is one.
    """

    metrics: Mapping[str, ApMetrics]
    seen: Evaluation
    tested: Evaluation | None = None


@dataclass(frozen=True, eq=False)
class Worth:
    """All that was measured of a teacher.

    Attributes:
        before: The base: metrics of the validation part and, if there is one, of the test part.
        seen_before: The base on the validation part.
        seen_after: The best adapter on the validation part.
        tested_before: The base on the test part.
        tested_after: The best adapter on the test part.
        by_detector: See :meth:`Measures.by_detector`.
        retained: See :meth:`Measures.retention`.
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
    worth: Worth,
    progress: Progress,
    *,
    teacher: Teacher,
    base: LocalModel,
    base_model: str,
    parts: Parts,
    steps: Steps,
    plan: Predicted | None,
) -> TeacherResult:
    """Leave samples of what base and best adapter have seen, and ``result.json``, beside the adapter in ``folder``."""
    write_samples(
        folder,
        parts.val.dataset,
        partial(parts.val.sample, with_masks=False),
        before=worth.seen_before.detections,
        after=worth.seen_after.detections,
        iou_type=teacher.iou_type,
    )
    pages = write_pages(
        folder / VALIDATION_PAGES,
        worth.seen_after.dataset,
        partial(parts.val.sample, with_masks=False),
        title=teacher.name.value,
        before=worth.seen_before.detections,
        after=worth.seen_after.detections,
        iou_type=teacher.iou_type,
    )
    at_first, adapted = (
        operation(one.dataset, one.detections, iou_type=teacher.iou_type)
        for one in (worth.seen_before, worth.seen_after)
    )
    adapter = folder / ADAPTER
    content = adapter.read_bytes()
    result = TeacherResult(
        teacher=teacher.name,
        base_model=base_model,
        base_revision=base.revision,
        before=worth.before["val"],
        after=worth.seen_after.metrics,
        test_before=worth.before.get("test"),
        test_after=worth.tested_after and worth.tested_after.metrics,
        comparison=_compared(worth.seen_before, worth.seen_after, iou_type=teacher.iou_type),
        test_comparison=_compared(worth.tested_before, worth.tested_after, iou_type=teacher.iou_type),
        from_detector_before=worth.by_detector and worth.by_detector[0],
        from_detector_after=worth.by_detector and worth.by_detector[1],
        thresholds=adapted.thresholds,
        split_check=parts.shared,
        images_skipped=len(parts.unreadable.faults),
        objects_skipped=parts.objects_skipped,
        skipped_examples=parts.unreadable.examples,
        quality=adapted.quality,
        score_curve_before=at_first.curve,
        score_curve_after=adapted.curve,
        class_score_curves=adapted.class_curves,
        confusion_before=at_first.confusion,
        confusion_after=adapted.confusion,
        validation_pages=pages,
        retention=worth.retained,
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
    of_parts = {"train": parts.train, "val": parts.val} | ({} if parts.test is None else {"test": parts.test})
    write_lists(folder, {name: part.dataset for name, part in of_parts.items()}, parts.marks)
    (folder / RESULT).write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return result


def _compared(before: Evaluation | None, after: Evaluation | None, *, iou_type: IouType) -> Comparison | None:
    if before is None or after is None:
        return None
    return compare_ap(after.dataset, before.detections, after.detections, iou_type=iou_type)

"""Write the results of a teacher: example images, validation pages, image lists and ``result.json``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from engine.dataset.types import Detections, Sample
from engine.estimate.cost_model import StepEstimate
from engine.evaluation.conclusion import conclude_result, improved
from engine.evaluation.evaluate import Evaluation
from engine.evaluation.example_drawings import BEFORE_AFTER, TEACHER_STUDENT
from engine.evaluation.example_images import choose_samples, make_record
from engine.evaluation.ground_truth import GroundTruth
from engine.evaluation.intervals import compare_ap
from engine.evaluation.thresholds import operating_point
from engine.evaluation.validation_pages import write_pages
from engine.layout import FOLD, RESULT, SAMPLE_IMAGES, SAMPLES, VALIDATION_PAGES
from engine.models.base_sources import LocalModel
from engine.models.model import Model
from engine.results.metrics import Comparison
from engine.results.trials import cross_validation
from engine.results.types import AdapterFile, TeacherResult, TrialResult
from engine.training.checkpoint import Progress
from engine.training.data.annotated_splits import SplitData
from engine.training.data.sampler import Steps
from engine.training.data.shared_images import write_lists
from engine.training.data.splits import Splits
from engine.training.evaluation import EvaluationReport
from engine.training.reference import reference_result
from engine.training.strength import Strength


def write_result(
    folder: Path,
    evaluation: EvaluationReport,
    progress: Progress,
    *,
    teacher: Model,
    base: LocalModel,
    base_model: str,
    splits: Splits,
    steps: Steps,
    plan: StepEstimate | None,
    strength: Strength,
    trials: Sequence[TrialResult] = (),
) -> TeacherResult:
    """Write example images with detections, validation pages and ``result.json`` to the adapter's ``folder``."""
    folds = bool(splits.folds)
    pages = _write_images(folder, evaluation, splits.val, title=teacher.name.value)
    before, after = (
        operating_point(one.truth, one.detections) for one in (evaluation.val_before, evaluation.val_after)
    )
    result = TeacherResult(
        teacher=teacher.name,
        base_model=base_model,
        base_revision=base.revision,
        before=evaluation.before["val"],
        after=evaluation.val_after.metrics,
        test_before=evaluation.before.get("test"),
        test_after=evaluation.test_after and evaluation.test_after.metrics,
        comparison=_compared(evaluation.val_before, evaluation.val_after),
        test_comparison=_compared(evaluation.test_before, evaluation.test_after),
        from_detector_before=evaluation.by_detector and evaluation.by_detector[0],
        from_detector_after=evaluation.by_detector and evaluation.by_detector[1],
        split_check=splits.shared,
        images_skipped=len(splits.unreadable.faults),
        objects_skipped=splits.objects_skipped,
        skipped_examples=splits.unreadable.examples,
        thresholds=after.thresholds,
        quality=after.quality,
        score_curve_before=before.curve,
        score_curve_after=after.curve,
        class_score_curves=after.class_curves,
        confusion_before=before.confusion,
        confusion_after=after.confusion,
        reference=reference_result(evaluation, after),
        validation_pages=pages,
        retention=evaluation.retention,
        labelled_images=0 if splits.human is None else len(splits.train.paths) - splits.human,
        strength=strength.value,
        strength_curve=strength.curve,
        trials=() if folds else tuple(trials),
        cross_validation=cross_validation(trials) if folds else None,
        history=progress.history,
        best_epoch=steps.epochs_at(progress.best_step),
        epochs=steps.epochs_at(progress.step),
        steps=progress.step,
        seconds=sum(trial.seconds for trial in trials) + (progress.seconds if folds or not trials else 0),
        peak_memory_bytes=progress.peak_memory_bytes,
        step_memory_bytes=progress.step_memory_bytes,
        predicted_memory_bytes=None if plan is None else plan.memory_bytes,
        trainable_parameters=sum(p.numel() for p in teacher.trained_parameters().values()),
        adapter=_adapter_file(folder / teacher.weights_file),
    )
    concluded = {"conclusion": conclude_result(result).sentence, "improved": improved(result)}
    result = result.model_copy(update=concluded)
    splits_by_name = {"train": splits.train, "val": splits.val} | ({} if splits.test is None else {"test": splits.test})
    if folds:  # every image is used for training
        del splits_by_name["val"]
        splits_by_name |= {FOLD.format(number): fold.val for number, fold in enumerate(splits.folds, 1)}
    write_lists(folder, {name: split.dataset for name, split in splits_by_name.items()}, splits.marks)
    (folder / RESULT).write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return result


def _write_images(folder: Path, evaluation: EvaluationReport, val: SplitData, *, title: str) -> int:
    """Write example images and validation pages of base and adapter, or teacher and student; return their number."""
    truth, reference = evaluation.val_after.truth, evaluation.reference
    before = evaluation.val_before if reference is None else reference.val
    write_samples(
        folder,
        truth,
        partial(val.sample, with_masks=False),
        before=before.detections,
        after=evaluation.val_after.detections,
        losses=reference is not None,
    )
    return write_pages(
        folder / VALIDATION_PAGES,
        truth,
        partial(val.sample, with_masks=False),
        title=title,
        before=before.detections,
        after=evaluation.val_after.detections,
        labels=BEFORE_AFTER if reference is None else TEACHER_STUDENT,
    )


def _adapter_file(file: Path) -> AdapterFile:
    content = file.read_bytes()
    return AdapterFile(uri=str(file), sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


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
    losses: bool = False,
) -> None:
    """Choose example images and write them with ground truth and detections.

    Args:
        folder: Folder of the teacher.
        truth: Ground truth of the validation split.
        load: Returns the sample of an image index.
        before: Detections of the base in each image.
        after: Detections of the adapted teacher.
        losses: See :func:`choose_samples`.
    """
    images = folder / SAMPLE_IMAGES
    images.mkdir(parents=True, exist_ok=True)
    records = [
        make_record(truth, index, before[index], after[index])
        for index in choose_samples(truth, before, after, losses=losses)
    ]
    for record in records:
        image = Image.fromarray(load(record.index).image)
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        image.save(images / record.image_name, quality=85)
    values = [record.model_dump(mode="json") for record in records]
    (folder / SAMPLES).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

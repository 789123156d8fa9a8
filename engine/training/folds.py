"""Evaluations and box prompts of the folds of a cross-validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engine.evaluation.evaluate import Evaluation, compute_metrics, with_sizes
from engine.training.context import TrainingContext
from engine.training.data.annotated_splits import SplitData
from engine.training.data.box_prompts import DetectedBoxes
from engine.training.data.splits import Splits
from engine.training.prepare import SharedData


def pool_evaluations(
    context: TrainingContext, split: SplitData, parts: Sequence[tuple[SplitData, Evaluation]]
) -> Evaluation:
    """Return the evaluation of a split whose images were evaluated in parts, each by another adapter."""
    seen = {
        id(image): (sized, found)
        for part, evaluation in parts
        for image, sized, found in zip(
            part.dataset.images,
            evaluation.truth.dataset.images,
            evaluation.detections,
            strict=False,  # only the first process has detections
        )
    }
    pooled = [seen[id(image)] for image in split.dataset.images if id(image) in seen]
    detections = [found for _, found in pooled]
    truth = context.truths.of(with_sizes(split.dataset, pooled), context.name.traits.iou_type)
    return Evaluation(context.processes.decided(lambda: compute_metrics(truth, detections)), detections, truth)


def detected_in_fold(shared: SharedData, fold: Splits) -> DetectedBoxes | None:
    """Return the detected boxes of the images of a fold."""
    if shared.detected is None:
        return None
    train, val = (
        {id(image): i for i, image in enumerate(one.dataset.images)} for one in (shared.splits.train, shared.splits.val)
    )
    return replace(
        shared.detected,
        train=tuple(shared.detected.train[train[id(image)]] for image in fold.train.dataset.images),
        val=tuple(shared.detected.val[val[id(image)]] for image in fold.val.dataset.images),
    )

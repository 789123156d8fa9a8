"""Run a teacher over a dataset and compute its metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.dataset.types import CocoAnnotation, CocoDataset, CocoImage, Detections, Sample
from engine.evaluation.coco_ap import coco_ap, mean_iou
from engine.evaluation.ground_truth import GroundTruth, GroundTruths
from engine.models.predictor import Predictor
from engine.results.metrics import ApMetrics

ImageDetections = tuple[CocoImage, Detections]
"""One image with its actual size, and the detections in it."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Evaluation of a teacher on a dataset.

    Attributes:
        metrics: COCO's metrics; for SAM also the mean IoU.
        detections: Detections in each image, in the dataset's order, in original pixels. ``prompt_indices``, if set,
            are indices into ``dataset.annotations[i]``.
        truth: Ground truth, with the sizes of all images, also those that the annotation file lacks.
    """

    metrics: ApMetrics
    detections: list[Detections]
    truth: GroundTruth


def evaluate(
    teacher: Predictor,
    dataset: CocoDataset,
    load: Callable[[int], Sample],
    *,
    batch_size: int,
    on_progress: Callable[[int, int], None] | None = None,
    truths: GroundTruths | None = None,
) -> Evaluation:
    """Evaluate ``teacher`` on every image of ``dataset``; at most ``batch_size`` images are in memory at a time.

    A teacher that predicts masks is prompted with the true boxes of each image. Objects without a mask are neither
    prompted nor counted, since their prediction cannot be compared.

    Args:
        teacher: Base, adapted, student, or exported model.
        dataset: Ground truth.
        load: Return the sample of an image by its index, without augmentation.
        batch_size: Images per forward pass.
        on_progress: Called after each batch with the numbers of finished and of all images.
        truths: Ground truth of earlier evaluations, for several of the same dataset.
    """
    indices = range(len(dataset))
    seen = predict_images(teacher, dataset, load, indices=indices, batch_size=batch_size, on_progress=on_progress)
    truth = (truths or GroundTruths()).of(with_sizes(dataset, seen), teacher.iou_type)
    detections = [found for _, found in seen]
    return Evaluation(compute_metrics(truth, detections), detections, truth)


def predict_images(
    teacher: Predictor,
    dataset: CocoDataset,
    load: Callable[[int], Sample],
    *,
    indices: Sequence[int],
    batch_size: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[ImageDetections]:
    """Predict on the images of ``dataset`` at ``indices``; other arguments as for :func:`evaluate`."""
    found: list[ImageDetections] = []
    for start in range(0, len(indices), batch_size):
        some = indices[start : start + batch_size]
        samples = [load(i) for i in some]
        images = [
            replace(dataset.images[i], width=sample.image.shape[1], height=sample.image.shape[0])
            for i, sample in zip(some, samples, strict=True)
        ]
        if teacher.iou_type == "segm":
            samples = [
                _with_masks_only(sample, dataset.annotations[i]) for i, sample in zip(some, samples, strict=True)
            ]
        for image, sample, seen in zip(images, samples, teacher.predict(samples), strict=True):
            prompts = seen.prompt_indices
            if prompts is not None:
                seen = replace(seen, prompt_indices=sample.annotation_indices[prompts])
            found.append((image, seen))
        if on_progress is not None:
            on_progress(len(found), len(indices))
    return found


def with_sizes(dataset: CocoDataset, seen: Sequence[ImageDetections]) -> CocoDataset:
    """Return the images that were seen, which are the first of ``dataset``, with their actual sizes."""
    return replace(dataset, images=tuple(image for image, _ in seen), annotations=dataset.annotations[: len(seen)])


def compute_metrics(truth: GroundTruth, detections: Sequence[Detections]) -> ApMetrics:
    """Compute the metrics of the detections in every image, in the order of ``truth.dataset``.

    If boxes were detected with masks, AP by the IoU of masks is computed too, on the images all of whose objects have
    a mask: elsewhere right detections would count as mistakes.
    """
    metrics = coco_ap(truth, detections)
    if truth.iou_type == "segm":
        return metrics.model_copy(update={"miou": mean_iou(truth, detections)})
    masked = truth.masked if any(seen.masks is not None for seen in detections) else None
    if masked is None:
        return metrics
    of_masks = coco_ap(masked.truth, [detections[i] for i in masked.images])
    return metrics.model_copy(update={"mask_ap": of_masks.ap})


def _with_masks_only(sample: Sample, annotations: tuple[CocoAnnotation, ...]) -> Sample:
    """Return the sample without its objects that have no mask."""
    keep = np.asarray([bool(annotations[i].segmentation) for i in sample.annotation_indices], np.bool_)
    return replace(
        sample,
        boxes_xyxy=sample.boxes_xyxy[keep],
        class_indices=sample.class_indices[keep],
        is_crowd=sample.is_crowd[keep],
        annotation_indices=sample.annotation_indices[keep],
        masks=None if sample.masks is None else sample.masks[keep],
    )

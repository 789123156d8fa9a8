"""Choose the score threshold of each class, and evaluate a teacher at its thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from engine.dataset.types import NMS_IOU, Detections
from engine.evaluation.confusion import MATRIX_CLASSES, confusion
from engine.evaluation.ground_truth import GroundTruth
from engine.evaluation.matching import Match, match_all
from engine.models.labeller import keep
from engine.results.metrics import Confusion, ScoreCurve
from engine.results.types import ClassQuality

FALLBACK = 0.3
"""Threshold if no class has a correct detection: about that of Grounding DINO's own demo."""


CURVE_POINTS = 50
"""Points of a score curve: enough to draw it, few enough to store for every class."""


@dataclass(frozen=True)
class OperatingPoint:
    """A teacher at its best thresholds.

    Attributes:
        thresholds: Threshold of each class, by name.
        quality: Precision, recall and F1 of each class at its threshold.
        confusion: Mistakes at the thresholds.
        curve: Precision and recall over scores, all classes together; None without detections or objects.
        class_curves: The same for each of the most frequent classes, by name.
        found: (M,) for the M objects of each image, True for those found at the thresholds.
    """

    thresholds: dict[str, float]
    quality: dict[str, ClassQuality]
    confusion: Confusion
    curve: ScoreCurve | None
    class_curves: dict[str, ScoreCurve]
    found: tuple[NDArray[np.bool_], ...] = ()


def operating_point(truth: GroundTruth, detections: Sequence[Detections]) -> OperatingPoint:
    """Choose the thresholds of a teacher by its detections, and evaluate it at these thresholds.

    A class without objects or without a correct detection gets the median threshold of the other classes, or
    :data:`FALLBACK` if there is none. Thresholds are chosen after NMS within each class, as in labelling. Quality and
    mistakes are those of the final labels: also across classes, only the highest-scoring class of a box is kept.

    Args:
        truth: Ground truth, and how detections are compared with it.
        detections: Detections in each image of ``truth.dataset``, in its order.
    """
    dataset, apart = truth.dataset, detections
    if truth.iou_type == "bbox":
        all_scores = np.zeros(len(dataset.classes), np.float32)
        apart = [keep(seen, all_scores, nms_iou=NMS_IOU, same_box=1.0) for seen in detections]
    matches = match_all(truth, apart)
    ranked = [_of_class(matches, index) for index in range(len(dataset.classes))]
    best = [_best(*one) for one in ranked]
    fallback = median([threshold for threshold, _ in best if threshold is not None] or [FALLBACK])
    thresholds = {
        name: fallback if threshold is None else threshold
        for name, (threshold, _) in zip(dataset.classes, best, strict=True)
    }
    qualities = [quality for _, quality in best]
    if truth.iou_type == "bbox":
        limits = np.asarray([thresholds[name] for name in dataset.classes], np.float32)
        labels = [keep(seen, limits, nms_iou=NMS_IOU) for seen in detections]
        matches = match_all(truth, labels)
        qualities = [_quality(matches, index) for index in range(len(dataset.classes))]
    prompted = any(seen.prompt_indices is not None for seen in detections)
    return OperatingPoint(
        thresholds=thresholds,
        quality=dict(zip(dataset.classes, qualities, strict=True)),
        # The class of a mask is that of the box that prompts it: it cannot be wrong.
        confusion=confusion(matches, dataset.classes, thresholds, with_matrix=not prompted),
        curve=score_curve(*_all_classes(ranked)),
        class_curves=_class_curves(dataset.classes, ranked),
        found=tuple(_found(match, [thresholds[name] for name in dataset.classes]) for match in matches),
    )


def _found(match: Match, limits: Sequence[float]) -> NDArray[np.bool_]:
    """Return (M,) True for the objects that a detection at the threshold of its class matches."""
    kept = (match.object_of >= 0) & (match.scores >= np.asarray(limits)[match.seen])
    found = np.zeros(len(match.objects), np.bool_)
    found[match.object_of[kept]] = True
    return found


def best_threshold(
    scores: NDArray[np.float64], right: NDArray[np.bool_], *, objects: int
) -> tuple[float, ClassQuality] | None:
    """Return the threshold with the highest F1, the higher one of equals; None without a correct detection.

    It is halfway to the next lower score, so that a score rounded differently on another machine stays on its side;
    without a lower score, it is the last score itself.

    Args:
        scores: (N,) scores of all detections of a class.
        right: (N,) True where the detection matches an object.
        objects: Number of objects.
    """
    if not right.any():
        return None
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    found = np.cumsum(right[order])  # (N,) objects matched by the first 1, 2, … detections
    f1 = 2 * found / (np.arange(1, len(scores) + 1) + objects)
    last = np.append(scores[1:] < scores[:-1], True)  # a threshold cannot separate equal scores
    kept = int(np.argmax(np.where(last, f1, -1.0)))
    threshold = float(scores[kept] if kept + 1 == len(scores) else (scores[kept] + scores[kept + 1]) / 2)
    quality = ClassQuality(
        f1=float(f1[kept]),
        precision=float(found[kept] / (kept + 1)),
        recall=float(found[kept] / objects),
        objects=objects,
    )
    return threshold, quality


def score_curve(scores: NDArray[np.float64], right: NDArray[np.bool_], objects: int) -> ScoreCurve | None:
    """Compute precision and recall at up to :data:`CURVE_POINTS` scores; None without detections or objects.

    Args:
        scores: (N,) scores of detections.
        right: (N,) True where the detection matches an object.
        objects: Number of objects.
    """
    if not len(scores) or not objects:
        return None
    order = np.argsort(-scores, kind="stable")
    scores, found = scores[order], np.cumsum(right[order])
    last = np.flatnonzero(np.append(scores[1:] < scores[:-1], True))  # a threshold cannot separate equal scores
    chosen = last[np.unique(np.linspace(0, len(last) - 1, CURVE_POINTS).round().astype(np.int64))]
    return ScoreCurve(
        scores=_rounded(scores[chosen]),
        precision=_rounded(found[chosen] / (chosen + 1)),
        recall=_rounded(found[chosen] / objects),
    )


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)


Ranked = tuple[NDArray[np.float64], NDArray[np.bool_], int]
"""(N,) scores of detections, (N,) True where the detection matches an object, and the number of objects."""


def _all_classes(ranked: Sequence[Ranked]) -> Ranked:
    scores, right, objects = zip(*ranked, strict=True)
    return np.concatenate(scores), np.concatenate(right), sum(objects)


def _class_curves(classes: Sequence[str], ranked: Sequence[Ranked]) -> dict[str, ScoreCurve]:
    frequent = sorted(range(len(classes)), key=lambda index: (-ranked[index][2], index))[:MATRIX_CLASSES]
    curves = {classes[index]: score_curve(*ranked[index]) for index in frequent}
    return {name: curve for name, curve in curves.items() if curve is not None}


def _of_class(matches: Sequence[Match], class_index: int) -> Ranked:
    """Collect the detections of a class from all images, without those in crowds."""
    objects = sum(int((match.objects == class_index).sum()) for match in matches)
    of_class = [(match.seen == class_index) & ~match.ignored for match in matches]
    scores = np.concatenate([match.scores[mask] for match, mask in zip(matches, of_class, strict=True)] or [[]])
    found = [match.object_of[mask] >= 0 for match, mask in zip(matches, of_class, strict=True)]
    return scores, np.concatenate(found or [np.empty(0, np.bool_)]), objects


def _quality(matches: Sequence[Match], class_index: int) -> ClassQuality:
    """Compute the quality of all detections of a class."""
    scores, right, objects = _of_class(matches, class_index)
    if not objects:
        return ClassQuality(f1=-1.0, precision=-1.0, recall=-1.0, objects=0)
    found = int(right.sum())
    return ClassQuality(
        f1=2 * found / (len(scores) + objects),
        precision=found / max(1, len(scores)),
        recall=found / objects,
        objects=objects,
    )


def _best(scores: NDArray[np.float64], right: NDArray[np.bool_], objects: int) -> tuple[float | None, ClassQuality]:
    best = best_threshold(scores, right, objects=objects)
    if best is not None:
        return best
    nothing = 0.0 if objects else -1.0
    return None, ClassQuality(f1=nothing, precision=nothing, recall=nothing, objects=objects)

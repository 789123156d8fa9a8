"""Confidence intervals of AP: 95 % bootstrap intervals over images.

Detections are matched once per image; a resample only changes the weights of images. The plain bootstrap gives too
narrow intervals for few images, so they are widened by Student's t (T. Hesterberg, What Teachers Should Know about
the Bootstrap, https://arxiv.org/abs/1411.5279, section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.dataset.types import Detections
from engine.evaluation.coco_ap import MAX_DETECTIONS, object_ious
from engine.evaluation.ground_truth import GroundTruth
from engine.evaluation.matching import pairwise_iou
from engine.results.metrics import Comparison, Interval

RESAMPLES = 400
"""Number of bootstrap resamples: enough for the ends of a 95 % interval."""

MAX_CELLS = 4_000_000
"""Maximum detections times resamples computed at a time, which limits the memory."""

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ClassMatches:
    """The detections of one class in all images, highest score first, and which of them are correct.

    Attributes:
        images: (N,) int64, index of the image of each detection.
        correct: (10, N) bool, True where it matches an object, at each IoU threshold.
        ignored: (10, N) bool, True where it is in a crowd and therefore ignored.
        objects: (images,) int64, objects of the class in each image.
    """

    images: NDArray[np.int64]
    correct: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    objects: NDArray[np.int64]

    def ap(self, weights: NDArray[np.int64]) -> Floats:
        """Compute the AP over all IoU thresholds with images weighted by ``weights`` (resamples, images).

        Returns:
            (resamples,); NaN where a resample has no object.
        """
        rows = max(1, MAX_CELLS // max(1, len(self.images)))
        chunks = [self._ap(weights[start : start + rows]) for start in range(0, len(weights), rows)]
        return np.concatenate(chunks)

    def _ap(self, weights: NDArray[np.int64]) -> Floats:
        objects = weights @ self.objects
        counted = weights[:, self.images].astype(np.float64)
        all_seen = None if self.ignored.any() else np.cumsum(counted, axis=1)
        total = np.zeros(len(weights))
        # One searchsorted call for all rows: offsets keep the concatenated rows sorted.
        steps = np.arange(len(weights))[:, None] * (float(objects.max(initial=0)) + 2)
        wanted = _needed(objects)
        for correct, ignored in zip(self.correct, self.ignored, strict=True):
            at = np.flatnonzero(correct)
            if not len(at):
                continue
            found = np.cumsum(counted[:, at], axis=1)
            seen = (np.cumsum(counted * ~ignored, axis=1) if all_seen is None else all_seen)[:, at]
            precision = found / np.maximum(seen, 1)
            best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            index = np.searchsorted((found + steps).ravel(), (wanted + steps).ravel()).reshape(wanted.shape)
            index -= np.arange(len(weights))[:, None] * len(at)
            reached = index < len(at)
            total += np.where(reached, np.take_along_axis(best, np.where(reached, index, 0), axis=1), 0).sum(axis=1)
        return np.where(objects > 0, total / (len(IOUS) * len(RECALLS)), math.nan)


def match_classes(truth: GroundTruth, detections: Sequence[Detections]) -> list[ClassMatches]:
    """Match the detections of every image with its objects, as COCO's evaluation does.

    Args:
        truth: Ground truth, and how detections are compared with it.
        detections: Detections in each image of ``truth.dataset``, in its order.

    Returns:
        One entry per class, in the order of ``truth.dataset.classes``.
    """
    classes = truth.dataset.classes
    found: list[list[tuple[int, Floats, NDArray[np.bool_], NDArray[np.bool_]]]] = [[] for _ in classes]
    counts = np.zeros((len(classes), len(truth)), np.int64)
    for image, (objects, seen, crowds) in enumerate(zip(truth.objects, detections, truth.crowds, strict=True)):
        np.add.at(counts[:, image], objects.class_indices, 1)
        for label in np.unique(seen.class_indices).tolist():
            chosen = np.flatnonzero(seen.class_indices == label)
            best = np.argsort(-seen.scores[chosen], kind="stable")[:MAX_DETECTIONS]
            own = seen.select(chosen[best])
            mine, others = (one.select(np.flatnonzero(one.class_indices == label)) for one in (objects, crowds))
            correct, ignored = _match(
                pairwise_iou(own, mine), pairwise_iou(own, others, crowds=True).max(axis=1, initial=0.0)
            )
            found[label].append((image, own.scores.astype(np.float64), correct, ignored))
    return [_merge_images(per_image, counts[label]) for label, per_image in enumerate(found)]


def compare_ap(
    truth: GroundTruth,
    before: Sequence[Detections],
    after: Sequence[Detections],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison | None:
    """Compute intervals of the AP of base and adapter, and of their difference on the same images.

    Args:
        truth: Ground truth; for masks the mean IoU is compared too.
        before: Detections of the base in each image.
        after: Detections of the adapted teacher in each image.
        resamples: Number of draws of images, with replacement.
        seed: Random seed of the draws.

    Returns:
        None without ground-truth objects, or with only one image.
    """
    count = len(truth)
    if count < 2 or not any(truth.dataset.annotations):
        return None
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.int64)
    weights = np.concatenate([np.ones((1, count), np.int64), draws])
    of_base, of_adapter = (_resampled(match_classes(truth, seen), weights) for seen in (before, after))
    if math.isnan(of_base[0]):
        return None
    ious = [object_ious(truth, seen) for seen in (before, after)] if truth.iou_type == "segm" else []
    miou = None
    if ious and all(one is not None for one in ious):
        means = [_weighted_means(one, weights) for one in ious]
        miou = None if math.isnan(means[0][0]) else _interval(means[1] - means[0], count, low=-1.0)
    return Comparison(
        images=count,
        resamples=resamples,
        before=_interval(of_base, count),
        after=_interval(of_adapter, count),
        difference=_interval(of_adapter - of_base, count, low=-1.0),
        miou_difference=miou,
    )


def _needed(objects: NDArray[np.int64]) -> Floats:
    """Compute the number of matched objects for each recall, (resamples, 101), rounded as COCO's evaluation does."""
    of = np.maximum(objects, 1)[:, None]
    low = np.maximum(np.floor(RECALLS * of) - 1, 0)
    needed: Floats = low + (low / of < RECALLS) + ((low + 1) / of < RECALLS)
    return needed


def _resampled(classes: list[ClassMatches], weights: NDArray[np.int64]) -> Floats:
    """Compute the mean AP, (resamples,), over the classes that have objects in each resample."""
    known = [one for one in classes if one.objects.any()]
    if not known:
        return np.full(len(weights), math.nan)
    values = np.stack([one.ap(weights) for one in known], axis=1)
    measured = ~np.isnan(values)
    means: Floats = np.where(measured, values, 0).sum(axis=1) / np.maximum(measured.sum(axis=1), 1)
    return means


def _weighted_means(ious: list[Floats], weights: NDArray[np.int64]) -> Floats:
    sums, counts = np.array([one.sum() for one in ious]), np.array([len(one) for one in ious])
    total = weights @ counts
    means: Floats = np.where(total > 0, weights @ sums / np.maximum(total, 1), math.nan)
    return means


def _interval(values: Floats, images: int, *, low: float = 0.0) -> Interval:
    """Compute the 95 % interval around the first value from the other values, which are the resamples."""
    estimate, drawn = float(values[0]), values[1:][~np.isnan(values[1:])]
    wide = student_t(images - 1) / 1.959964 * math.sqrt(images / (images - 1))
    ends = [estimate + wide * (float(end) - estimate) for end in np.quantile(drawn, (0.025, 0.975))]
    return Interval(low=max(low, min(ends[0], estimate)), high=min(1.0, max(ends[1], estimate)))


def student_t(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t.

    >>> [round(student_t(n), 2) for n in (1, 5, 30)]
    [12.71, 2.57, 2.04]
    """
    few = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
    if freedom <= len(few):
        return few[freedom - 1]
    z = 1.959964  # Cornish-Fisher's expansion around the normal quantile
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def _match(ious: Floats, in_crowd: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Match N detections, highest score first, with objects; others can be in a crowd.

    Args:
        ious: (N, M) IoU with each object.
        in_crowd: (N,) largest share of the detection's area inside one crowd.

    Returns:
        Two (10, N) bool arrays, for each IoU threshold: matched with an object, and in a crowd instead.
    """
    count, objects = ious.shape
    correct = np.zeros((len(IOUS), count), np.bool_)
    if objects:
        free = np.ones((len(IOUS), objects), np.bool_)
        rows = np.arange(len(IOUS))
        for i in np.flatnonzero((ious >= IOUS[0]).any(axis=1)):
            best = np.where(free, ious[i], -1.0)
            # COCO takes the last of equal IoUs.
            column = objects - 1 - np.argmax(best[:, ::-1], axis=1)
            correct[:, i] = best[rows, column] >= np.minimum(IOUS, 1 - 1e-10)
            free[rows, column] &= ~correct[:, i]
    return correct, (in_crowd[None, :] >= IOUS[:, None]) & ~correct


def _merge_images(
    per_image: list[tuple[int, Floats, NDArray[np.bool_], NDArray[np.bool_]]], objects: NDArray[np.int64]
) -> ClassMatches:
    """Merge the detections of all images, sorted by score; equal scores keep the order of images."""
    nothing = np.zeros((len(IOUS), 0), np.bool_)
    scores = np.concatenate([np.zeros(0), *(image[1] for image in per_image)])
    images = np.repeat([image[0] for image in per_image], [len(image[1]) for image in per_image]).astype(np.int64)
    order = np.argsort(-scores, kind="stable")
    correct = np.concatenate([nothing, *(image[2] for image in per_image)], axis=1)[:, order]
    order = order[: int(np.flatnonzero(correct.any(axis=0)).max(initial=-1)) + 1]  # later detections do not change AP
    return ClassMatches(
        images=images[order],
        correct=correct[:, : len(order)],
        ignored=np.concatenate([nothing, *(image[3] for image in per_image)], axis=1)[:, order],
        objects=objects,
    )

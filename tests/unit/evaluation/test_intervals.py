"""Intervals of AP: each resample has the AP that COCO's evaluation gives to the images that were drawn."""

from __future__ import annotations

import time

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.dataset.types import CocoAnnotation, CocoDataset, CocoImage, Detections
from engine.evaluation.coco_ap import coco_ap
from engine.evaluation.ground_truth import GroundTruth
from engine.evaluation.intervals import compare_ap, match_classes

CLASSES = ("bolt", "nut", "washer")


def drawn(
    images: int, *, seed: int = 0, false: int = 20, noise: float = 6.0, crowds: float = 0.2
) -> tuple[CocoDataset, list[Detections]]:
    """Images with 8 objects each, and detections near them among false ones."""
    rng = np.random.default_rng(seed)
    annotations, detections = [], []
    for _ in range(images):
        corners, sides, labels = rng.uniform(0, 400, (8, 2)), rng.uniform(30, 120, (8, 2)), rng.integers(0, 3, 8)
        boxes = np.concatenate([corners, corners + sides], axis=1)
        annotations.append(
            tuple(
                CocoAnnotation(k, int(labels[k]), tuple(box.tolist()), float(side.prod()), rng.random() < crowds)
                for k, (box, side) in enumerate(zip(boxes, sides, strict=True))
            )
        )
        seen = np.concatenate([corners, corners + sides], axis=1) + rng.normal(0, noise, (8, 4))
        others = rng.uniform(0, 400, (false, 2))
        others = np.concatenate([others, others + rng.uniform(30, 120, (false, 2))], axis=1)
        scores = np.concatenate([rng.uniform(0.2, 1, 8), rng.uniform(0, 0.7, false)]).astype(np.float32)
        order = np.argsort(-scores)
        detections.append(
            Detections(
                np.concatenate([seen, others]).astype(np.float32)[order],
                scores[order],
                np.concatenate([labels, rng.integers(0, 3, false)])[order],
            )
        )
    sizes = tuple(CocoImage(i, f"{i}.jpg", 640, 480) for i in range(images))
    return CocoDataset(sizes, tuple(annotations), CLASSES, (1, 2, 3)), detections


def ap_of(dataset: CocoDataset, detections: list[Detections], weights: NDArray[np.int64]) -> list[float]:
    matched = match_classes(GroundTruth.of(dataset, "bbox"), detections)
    return [float(one.ap(weights[None])[0]) for one in matched]


@pytest.mark.parametrize("seed", range(5))
def test_all_images_once_have_cocos_ap_of_each_class(seed: int) -> None:
    dataset, detections = drawn(30, seed=seed)
    expected = coco_ap(GroundTruth.of(dataset, "bbox"), detections).per_class
    assert ap_of(dataset, detections, np.ones(30, np.int64)) == pytest.approx(list(expected.values()), abs=1e-9)


def test_images_that_are_drawn_twice_count_twice() -> None:
    dataset, detections = drawn(20, seed=7)
    chosen = np.random.default_rng(1).integers(0, 20, 20).tolist()
    again = coco_ap(GroundTruth.of(dataset.subset(chosen), "bbox"), [detections[i] for i in chosen])
    weights = np.bincount(chosen, minlength=20).astype(np.int64)
    assert np.mean(ap_of(dataset, detections, weights)) == pytest.approx(again.ap, abs=1e-3)


def test_a_gain_of_chance_on_few_images_covers_zero_and_a_real_one_does_not() -> None:
    dataset, near = drawn(6, seed=1)
    _, far = drawn(6, seed=1, noise=8)
    chance = compare_ap(GroundTruth.of(dataset, "bbox"), near[:3] + far[3:], far[:3] + near[3:])
    assert chance is not None
    assert chance.difference.covers_zero
    dataset, before = drawn(60, seed=2, noise=14)
    _, after = drawn(60, seed=2, noise=2)
    real = compare_ap(GroundTruth.of(dataset, "bbox"), before, after)
    assert real is not None
    assert real.difference.low > 0
    assert real.before.low < coco_ap(GroundTruth.of(dataset, "bbox"), before).ap < real.before.high


def test_intervals_narrow_with_the_number_of_images() -> None:
    widths = []
    for count in (4, 16, 64):
        dataset, seen = drawn(count, seed=3)
        found = compare_ap(GroundTruth.of(dataset, "bbox"), seen, seen)
        assert found is not None
        assert (found.difference.low, found.difference.high) == (0, 0)
        widths.append(found.after.high - found.after.low)
    assert widths[0] > widths[1] > widths[2]


def test_of_one_image_or_of_no_object_nothing_is_reported() -> None:
    dataset, seen = drawn(1)
    assert compare_ap(GroundTruth.of(dataset, "bbox"), seen, seen) is None
    dataset, seen = drawn(4, crowds=1.1)
    assert compare_ap(GroundTruth.of(dataset, "bbox"), seen, seen) is None


def test_five_hundred_images_take_seconds() -> None:
    dataset, seen = drawn(500, false=92)
    start = time.process_time()
    compare_ap(GroundTruth.of(dataset, "bbox"), seen, seen)
    assert time.process_time() - start < 20

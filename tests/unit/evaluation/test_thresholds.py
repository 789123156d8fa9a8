"""The threshold of a class is the one with the highest F1; matches are those of COCO's evaluation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from faster_coco_eval import COCO, COCOeval_faster

from engine.dataset.types import CocoDataset, Detections
from engine.evaluation.coco_ap import _results
from engine.evaluation.ground_truth import GroundTruth
from engine.evaluation.matching import match_all
from engine.evaluation.thresholds import CURVE_POINTS, FALLBACK, best_threshold, operating_point, score_curve

from .conftest import CLASSES, an_object, rectangle_rle, seen
from .test_coco_ap import random_data

BOX, OTHER, NOWHERE = (4, 10, 24, 30), (60, 10, 80, 30), (90, 50, 100, 70)


def one_image(dataset: CocoDataset, *objects: object) -> CocoDataset:
    return replace(dataset, images=dataset.images[:1], annotations=(objects,))  # type: ignore[arg-type]


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(3))
def test_as_many_objects_are_found_as_in_the_evaluation_of_coco(iou_type: str, seed: int) -> None:
    dataset, detections = random_data(seed)
    truth = GroundTruth.of(dataset, iou_type).coco()  # type: ignore[arg-type]
    results = {**truth, "annotations": list(_results(detections, iou_type))}  # type: ignore[arg-type]
    evaluation = COCOeval_faster(COCO(truth), COCO(results), iouType=iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    matches = match_all(GroundTruth.of(dataset, iou_type), detections)  # type: ignore[arg-type]
    for index in range(len(dataset.classes)):
        objects = sum(int((match.objects == index).sum()) for match in matches)
        found = sum(int((match.seen[match.object_of >= 0] == index).sum()) for match in matches)
        recall = evaluation.eval["recall"][0, index, 0, 2]
        assert (found / objects if objects else -1) == pytest.approx(recall)


@pytest.mark.parametrize(
    ("scores", "right", "objects", "threshold", "f1"),
    [
        ([0.9, 0.6, 0.2], [1, 1, 0], 2, 0.4, 1.0),  # halfway between the last that is right and the first that is not
        ([0.9, 0.6], [1, 1], 2, 0.6, 1.0),  # nothing is lower
        ([0.9, 0.8, 0.4], [1, 0, 1], 2, 0.4, 0.8),
        ([0.9, 0.8, 0.7, 0.1], [1, 0, 0, 1], 2, 0.85, 2 / 3),  # as good as at 0.1: the higher one
        ([0.5, 0.5, 0.1], [1, 0, 0], 1, 0.3, 2 / 3),  # equal scores are kept together
        ([0.2, 0.9], [0, 1], 1, 0.55, 1.0),  # in any order
    ],
)
def test_the_threshold_has_the_highest_f1(
    scores: list[float], right: list[int], objects: int, threshold: float, f1: float
) -> None:
    best = best_threshold(np.asarray(scores), np.asarray(right, np.bool_), objects=objects)
    assert best is not None
    assert best[0] == pytest.approx(threshold)
    assert best[1].f1 == pytest.approx(f1)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_threshold_has_a_higher_f1(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, right = rng.integers(0, 12, 30) / 12, rng.random(30) < 0.4
    objects = int(right.sum()) + 5
    best = best_threshold(scores, right, objects=objects)
    assert best is not None
    f1s = [2 * right[scores >= t].sum() / ((scores >= t).sum() + objects) for t in np.linspace(0, 0.9, 500)]
    assert best[1].f1 == pytest.approx(max(f1s))
    kept = scores >= best[0]
    assert best[1].precision == pytest.approx(right[kept].mean())
    assert best[1].recall == pytest.approx(right[kept].sum() / objects)


def test_each_class_has_its_own_threshold(dataset: CocoDataset) -> None:
    dataset = one_image(dataset, an_object(BOX, 0), an_object(OTHER, 1))
    boxes = (BOX, NOWHERE, OTHER, (90, 5, 100, 25))
    found = operating_point(
        GroundTruth.of(dataset, "bbox"), [seen(*boxes, scores=[0.8, 0.6, 0.3, 0.1], classes=[0, 0, 1, 1])]
    )
    assert found.thresholds == pytest.approx({"bolt": 0.7, "nut": 0.2})
    assert [quality.f1 for quality in found.quality.values()] == [1, 1]


def test_boxes_of_one_object_are_one_as_labelling_has_them(dataset: CocoDataset) -> None:
    dataset = one_image(dataset, an_object(BOX, 0), an_object(OTHER, 0))
    double = (BOX[0], BOX[1], BOX[2] + 1, BOX[3])
    found = operating_point(GroundTruth.of(dataset, "bbox"), [seen(BOX, double, OTHER, scores=[0.8, 0.6, 0.3])])
    assert found.thresholds["bolt"] == pytest.approx(0.3)
    assert found.quality["bolt"].f1 == 1
    assert found.confusion.duplicates == 0


def test_classes_that_see_the_same_box_keep_thresholds_of_their_own(dataset: CocoDataset) -> None:
    """One query names one box by several classes: which of them is a label is for the thresholds to say."""
    dataset = one_image(dataset, an_object(BOX, 0), an_object(OTHER, 1))
    found = operating_point(
        GroundTruth.of(dataset, "bbox"), [seen(BOX, OTHER, OTHER, scores=[0.9, 0.5, 0.4], classes=[0, 0, 1])]
    )
    assert found.thresholds == pytest.approx({"bolt": 0.7, "nut": 0.4})
    assert [quality.f1 for quality in found.quality.values()] == [1, 1]


def test_quality_is_that_of_the_labels_that_come_out(dataset: CocoDataset) -> None:
    """Where two classes see one box, one of them is its label, though both would do for their thresholds."""
    dataset = one_image(dataset, an_object(BOX, 0), an_object(OTHER, 1))
    found = operating_point(
        GroundTruth.of(dataset, "bbox"), [seen(BOX, OTHER, OTHER, scores=[0.4, 0.5, 0.1], classes=[0, 0, 1])]
    )
    assert found.thresholds == pytest.approx({"bolt": 0.4, "nut": 0.1})
    assert (found.quality["bolt"].precision, found.quality["nut"].recall) == (0.5, 0)
    assert (found.confusion.found, found.confusion.wrong_class) == (1, 1)


def test_a_class_with_nothing_to_choose_by_takes_the_median_of_the_others(dataset: CocoDataset) -> None:
    dataset = replace(one_image(dataset, an_object(BOX, 0)), classes=("bolt", "nut", "washer"), category_ids=(1, 2, 3))
    found = operating_point(GroundTruth.of(dataset, "bbox"), [seen(BOX, NOWHERE, scores=[0.8, 0.6])])
    assert found.thresholds == pytest.approx({"bolt": 0.7, "nut": 0.7, "washer": 0.7})
    assert found.quality["nut"].f1 == -1
    assert found.quality["nut"].objects == 0


@pytest.mark.parametrize("boxes", [(), (NOWHERE,)])
def test_where_nothing_right_is_seen_of_any_class_a_fixed_threshold_stands(
    dataset: CocoDataset, boxes: tuple[tuple[int, int, int, int], ...]
) -> None:
    dataset = one_image(dataset, an_object(BOX, 0))
    found = operating_point(GroundTruth.of(dataset, "bbox"), [seen(*boxes, scores=[0.9] * len(boxes))])
    assert found.thresholds == dict.fromkeys(CLASSES, FALLBACK)
    assert found.quality["bolt"].f1 == 0


def test_detections_in_a_crowd_of_their_class_do_not_move_the_threshold(dataset: CocoDataset) -> None:
    dataset = one_image(dataset, an_object(BOX), replace(an_object((50, 5, 110, 75)), iscrowd=True))
    boxes = (BOX, (60, 10, 80, 30), (*NOWHERE[:2], 119, 79))
    found = operating_point(GroundTruth.of(dataset, "bbox"), [seen(*boxes, scores=[0.5, 0.9, 0.2])])
    assert found.quality["bolt"].f1 == 1
    assert found.confusion.objects == found.confusion.found == 1
    assert found.confusion.false == 0


def test_a_dataset_without_images_has_thresholds_all_the_same(dataset: CocoDataset) -> None:
    assert (
        operating_point(GroundTruth.of(replace(dataset, images=(), annotations=()), "bbox"), []).thresholds["bolt"]
        == FALLBACK
    )


def test_masks_are_compared_where_the_teacher_gives_masks(dataset: CocoDataset) -> None:
    dataset = one_image(dataset, an_object(BOX), an_object(OTHER))
    halves = (rectangle_rle(*BOX), rectangle_rle(60, 10, 68, 30))  # 0.4 of the second object
    masks = Detections(
        np.asarray([BOX, OTHER], np.float32),
        np.asarray([0.9, 0.7], np.float32),
        np.zeros(2, np.int64),
        masks=list(halves),
        prompt_indices=np.arange(2),
    )
    found = operating_point(GroundTruth.of(dataset, "segm"), [masks])
    assert found.thresholds["bolt"] == pytest.approx(0.8)
    assert (found.confusion.found, found.confusion.missed, found.confusion.matrix) == (1, 1, None)


def test_a_score_curve_has_precision_and_recall_at_each_threshold() -> None:
    curve = score_curve(np.asarray([0.2, 0.9, 0.9, 0.4]), np.asarray([1, 1, 0, 0], np.bool_), 4)
    assert curve is not None
    assert curve.scores == (0.9, 0.4, 0.2)  # equal scores are kept together
    assert curve.precision == (0.5, 0.3333, 0.5)
    assert curve.recall == (0.25, 0.25, 0.5)
    assert curve.f1[2] == pytest.approx(0.5)
    assert score_curve(np.empty(0), np.empty(0, np.bool_), 4) is None
    assert score_curve(np.asarray([0.5]), np.asarray([0], np.bool_), 0) is None


def test_a_score_curve_of_many_detections_is_short_and_keeps_both_ends() -> None:
    rng = np.random.default_rng(0)
    scores, right = rng.random(5000), rng.random(5000) < 0.3
    curve = score_curve(scores, right, 2000)
    assert curve is not None
    assert len(curve.scores) == CURVE_POINTS
    assert (curve.scores[0], curve.scores[-1]) == pytest.approx((scores.max(), scores.min()), abs=1e-4)
    assert curve.recall[-1] == pytest.approx(right.sum() / 2000, abs=1e-4)

"""COCO's numbers: equal to pycocotools' on random data, and to what one counts by hand."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from engine.dataset.boxes import to_xywh
from engine.dataset.types import CocoAnnotation, CocoDataset, CocoImage, Detections
from engine.evaluation.coco_ap import coco_ap, mean_iou
from engine.evaluation.ground_truth import GroundTruth
from engine.results.metric_table import ceiling_sentence

NUMBERS = [
    "ap",
    "ap50",
    "ap75",
    "ap_small",
    "ap_medium",
    "ap_large",
    "ar1",
    "ar10",
    "ar100",
    "ar_small",
    "ar_medium",
    "ar_large",
]
SIZE = 320


def ellipse(box: tuple[float, float, float, float]) -> dict[str, Any]:
    x, y, width, height = box
    rows, columns = np.mgrid[:SIZE, :SIZE]
    inside = ((columns - x - width / 2) / (width / 2)) ** 2 + ((rows - y - height / 2) / (height / 2)) ** 2 <= 1
    return coco_mask.encode(np.asfortranarray(inside.astype(np.uint8)))


def random_data(seed: int) -> tuple[CocoDataset, list[Detections]]:
    """Objects of all sizes, some of them crowds; detections near and far, right and wrong, with tied scores."""
    rng = np.random.default_rng(seed)
    classes = ("bolt", "nut", "washer", "never there")
    annotations, detections = [], []
    for _ in range(12):
        objects, boxes = [], []
        for i in range(rng.integers(0, 9)):
            width, height = rng.uniform(6, 180, 2)
            box = (rng.uniform(0, SIZE - width), rng.uniform(0, SIZE - height), width, height)
            rle = ellipse(box)
            crowd = bool(rng.random() < 0.15)
            corners = (box[0], box[1], box[0] + width, box[1] + height)
            objects.append(CocoAnnotation(i, int(rng.integers(3)), corners, float(coco_mask.area(rle)), crowd, rle))
            boxes += [box] * int(rng.integers(0, 3))
        boxes += [(5.0, 5.0, *rng.uniform(10, 100, 2))] * int(rng.integers(0, 3))
        noisy = np.clip(np.asarray(boxes).reshape(-1, 4) * rng.normal(1, 0.08, (len(boxes), 4)), 1, SIZE - 1)
        truth_classes = rng.integers(0, 3, len(noisy))
        scores = np.sort(np.round(rng.random(len(noisy)), 1))[::-1]
        xyxy = np.concatenate([noisy[:, :2], noisy[:, :2] + noisy[:, 2:]], axis=1).astype(np.float32)
        masks = [ellipse(tuple(box)) for box in noisy]
        detections.append(Detections(xyxy, scores.astype(np.float32), truth_classes.astype(np.int64), masks))
        annotations.append(tuple(objects))
    images = tuple(CocoImage(f"image {i}", f"{i}.jpg", SIZE, SIZE) for i in range(12))
    return CocoDataset(images, tuple(annotations), classes, (7, 3, 90, 11)), detections


def reference(dataset: CocoDataset, detections: list[Detections], iou_type: str) -> tuple[list[float], list[float]]:
    """The twelve numbers and AP by class, by pycocotools from plain COCO JSON."""
    truth = [
        {
            "id": 100 * i + k + 1,
            "image_id": i,
            "category_id": o.class_index + 1,
            "bbox": to_xywh(o.box_xyxy),
            "area": o.area,
            "iscrowd": int(o.iscrowd),
            "segmentation": o.segmentation,
        }
        for i, objects in enumerate(dataset.annotations)
        for k, o in enumerate(objects)
    ]
    results = []
    for i, seen in enumerate(detections):
        for k in range(len(seen)):
            x1, y1, x2, y2 = seen.boxes_xyxy[k].tolist()
            result = {"image_id": i, "category_id": int(seen.class_indices[k]) + 1, "score": float(seen.scores[k])}
            where = {"bbox": [x1, y1, x2 - x1, y2 - y1]} if iou_type == "bbox" else {"segmentation": seen.masks[k]}
            results.append(result | where)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i, "width": SIZE, "height": SIZE} for i in range(len(dataset))],
            "annotations": truth,
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(dataset.classes)],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = [evaluation.eval["precision"][:, :, k, 0, 2] for k in range(len(dataset.classes))]
    by_class = [float(p[p > -1].mean()) if (p > -1).any() else -1.0 for p in precision]
    return evaluation.stats.tolist(), by_class


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools(iou_type: str, seed: int) -> None:
    dataset, detections = random_data(seed)
    metrics = coco_ap(GroundTruth.of(dataset, iou_type), detections)
    numbers, by_class = reference(dataset, detections, iou_type)
    assert [getattr(metrics, name) for name in NUMBERS] == pytest.approx(numbers, abs=1e-6)
    assert list(metrics.per_class.values()) == pytest.approx(by_class, abs=1e-6)
    assert 0 < metrics.ap < 1
    assert metrics.per_class["never there"] == -1
    assert metrics.images == 12


def one_image(*objects: CocoAnnotation, classes: tuple[str, ...] = ("nut", "bolt")) -> CocoDataset:
    return CocoDataset((CocoImage(1, "a.jpg", 100, 100),), (objects,), classes, tuple(range(len(classes))))


def an_object(box: tuple[float, float, float, float], class_index: int = 0, **more: Any) -> CocoAnnotation:
    x, y, width, height = box
    polygon = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    more = {"iscrowd": False, "segmentation": polygon, **more}
    return CocoAnnotation(1, class_index, (x, y, x + width, y + height), width * height, **more)


def seen(*boxes: tuple[float, float, float, float], scores: tuple[float, ...] = (), **more: Any) -> Detections:
    return Detections(
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.asarray(scores or np.linspace(0.9, 0.5, len(boxes)), np.float32),
        np.zeros(len(boxes), np.int64),
        **more,
    )


def test_a_perfect_detection_scores_one() -> None:
    metrics = coco_ap(GroundTruth.of(one_image(an_object((10, 10, 40, 40))), "bbox"), [seen((10, 10, 50, 50))])
    assert metrics.ap == metrics.ap50 == metrics.ar1 == metrics.ap_medium == pytest.approx(1)
    assert metrics.ap_small == metrics.ap_large == -1
    assert metrics.per_class == {"nut": pytest.approx(1), "bolt": -1}


def test_a_detection_counts_up_to_its_iou() -> None:
    # 40x40 against 40x30 inside it: IoU 0.75, so six of the ten thresholds hold.
    metrics = coco_ap(GroundTruth.of(one_image(an_object((10, 10, 40, 40))), "bbox"), [seen((10, 10, 50, 40))])
    assert (metrics.ap, metrics.ap50, metrics.ap75) == pytest.approx((0.6, 1, 1))


def test_a_false_alarm_with_a_higher_score_halves_precision() -> None:
    detections = [seen((60, 60, 90, 90), (10, 10, 50, 50))]
    assert coco_ap(GroundTruth.of(one_image(an_object((10, 10, 40, 40))), "bbox"), detections).ap == pytest.approx(0.5)


def test_detections_inside_a_crowd_are_neither_right_nor_wrong() -> None:
    dataset = one_image(an_object((10, 10, 20, 20)), an_object((40, 40, 60, 60), iscrowd=True))
    detections = [seen((50, 50, 70, 70), (60, 60, 90, 90), (10, 10, 30, 30))]
    assert coco_ap(GroundTruth.of(dataset, "bbox"), detections).ap == pytest.approx(1)


def test_at_most_a_hundred_detections_an_image_count() -> None:
    boxes = [(60.0, 60.0, 90.0, 90.0)] * 100 + [(10.0, 10.0, 50.0, 50.0)]
    assert coco_ap(GroundTruth.of(one_image(an_object((10, 10, 40, 40))), "bbox"), [seen(*boxes)]).ap == 0


def test_objects_without_a_mask_are_not_asked_for_masks() -> None:
    dataset = one_image(an_object((10, 10, 40, 40)), an_object((60, 60, 20, 20), segmentation=None))
    square = np.zeros((100, 100), np.uint8, order="F")
    square[10:50, 10:50] = 1
    detections = [seen((10, 10, 50, 50), masks=[coco_mask.encode(square)])]
    assert coco_ap(GroundTruth.of(dataset, "segm"), detections).ap == pytest.approx(1)
    assert coco_ap(GroundTruth.of(dataset, "bbox"), detections).ar100 == pytest.approx(0.5)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_nothing_to_find_and_nothing_found_are_numbers_not_errors(iou_type: str) -> None:
    nothing = seen(masks=[])
    no_images = CocoDataset((), (), ("nut",), (1,))
    assert coco_ap(GroundTruth.of(no_images, iou_type), []).per_class == {"nut": -1}
    assert coco_ap(GroundTruth.of(one_image(), iou_type), [nothing]).ap == -1
    assert coco_ap(GroundTruth.of(one_image(classes=()), iou_type), [nothing]).per_class == {}
    missed = coco_ap(GroundTruth.of(one_image(an_object((10, 10, 40, 40))), iou_type), [nothing])
    assert (missed.ap, missed.ar100, missed.ap_medium, missed.ap_large) == (0, 0, 0, -1)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    coco_ap(GroundTruth.of(one_image(an_object((10, 10, 40, 40))), "bbox"), [seen((10, 10, 50, 50))])
    assert capfd.readouterr() == ("", "")


def test_mean_iou_compares_each_mask_with_the_object_that_prompted_it() -> None:
    left = np.zeros((100, 100), np.uint8, order="F")
    left[0:20, 0:10] = 1  # half of the first object
    dataset = one_image(
        an_object((0, 0, 20, 20)),
        an_object((50, 50, 20, 20), iscrowd=True),
        an_object((70, 70, 20, 20)),
        an_object((30, 30, 5, 5), segmentation=None),
    )
    answered = seen((0, 0, 10, 20), masks=[coco_mask.encode(left)], prompt_indices=np.array([0]))
    assert mean_iou(GroundTruth.of(dataset, "segm"), [answered]) == pytest.approx(
        (0.5 + 0) / 2
    )  # nothing was predicted for the other
    assert mean_iou(GroundTruth.of(one_image(), "segm"), [seen(masks=[], prompt_indices=np.zeros(0, np.int64))]) == -1


def test_more_than_a_hundred_objects_of_a_class_are_reported_with_the_ap_of_perfect_detections() -> None:
    boxes = [(3 * (i % 20), 3 * (i // 20), 3 * (i % 20) + 2, 3 * (i // 20) + 2) for i in range(200)]
    dense = CocoDataset(
        images=(CocoImage(0, "0.jpg", 120, 80), CocoImage(1, "1.jpg", 120, 80)),
        annotations=(tuple(an_object(box) for box in boxes), ()),
        classes=("bolt", "nut"),
        category_ids=(1, 2),
    )
    found = coco_ap(GroundTruth.of(dense, "bbox"), [GroundTruth.of(dense, "bbox").objects[i] for i in range(2)])
    assert found.ap == pytest.approx(found.ap_ceiling)
    assert found.ap_ceiling == pytest.approx(0.505, abs=1e-3)
    assert found.dense_images == 1
    assert "perfect detections would have AP 0.505" in ceiling_sentence(found)


def test_a_hundred_objects_of_each_of_two_classes_are_all_counted(dataset: CocoDataset) -> None:
    boxes = [(3 * (i % 20), 3 * (i // 20), 3 * (i % 20) + 2, 3 * (i // 20) + 2) for i in range(200)]
    objects = tuple(an_object(box, i % 2) for i, box in enumerate(boxes))
    full = CocoDataset((CocoImage(0, "0.jpg", 120, 80),), (objects,), ("bolt", "nut"), (1, 2))
    found = coco_ap(GroundTruth.of(full, "bbox"), [GroundTruth.of(full, "bbox").objects[0]])
    assert (found.ap, found.ap_ceiling, found.dense_images) == (pytest.approx(1), None, 0)
    assert ceiling_sentence(found) == ""

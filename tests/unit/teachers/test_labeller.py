from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from labelling import Bright, Halver, labeller

from engine.dataset.types import Detections
from engine.errors import OutOfGpuMemoryError
from engine.labelling.records import image_line
from engine.models.labeller import DEFAULT_THRESHOLD, Labeller, keep, non_maximum_suppression


def detections(boxes: Sequence[Sequence[float]], scores: Sequence[float], classes: Sequence[int]) -> Detections:
    return Detections(
        np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(scores, np.float32), np.asarray(classes, np.int64)
    )


def kept(boxes: Sequence[Sequence[float]], classes: Sequence[int], iou: float = 0.5) -> list[int]:
    found = non_maximum_suppression(np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(classes), iou=iou)
    return found.tolist()


def test_nms_keeps_the_higher_score_of_two_overlapping_boxes_of_one_class() -> None:
    assert kept([(0, 0, 10, 10), (1, 0, 11, 10), (20, 0, 30, 10)], [0, 0, 0]) == [0, 2]


def test_a_box_is_not_suppressed_by_one_that_is_suppressed_itself() -> None:
    chain = [(0, 0, 10, 10), (3, 0, 13, 10), (6, 0, 16, 10)]  # neighbours overlap by 0.54, the ends by 0.25
    assert kept(chain, [0, 0, 0]) == [0, 2]


def test_boxes_of_two_classes_may_overlap_but_not_be_the_same_box() -> None:
    assert kept([(0, 0, 10, 10), (1, 0, 11, 10)], [0, 1]) == [0, 1]
    assert kept([(0, 0, 100, 100), (0, 0, 100, 99)], [0, 1]) == [0]


def test_an_overlap_of_one_keeps_all_but_the_same_boxes() -> None:
    assert kept([(0, 0, 10, 10), (1, 0, 11, 10), (0, 0, 10, 10)], [0, 0, 0], iou=1) == [0, 1]


def test_no_boxes_are_none() -> None:
    assert kept([], []) == []
    assert len(keep(detections([], [], []), np.asarray([0.5], np.float32), nms_iou=0.5)) == 0


def test_each_class_has_its_own_threshold() -> None:
    seen = detections([(0, 0, 9, 9), (20, 0, 29, 9), (40, 0, 49, 9)], [0.6, 0.5, 0.4], [0, 1, 1])
    found = keep(seen, np.asarray([0.7, 0.45], np.float32), nms_iou=0.7)
    assert found.boxes_xyxy[:, 0].tolist() == [20]
    assert found.class_indices.tolist() == [1]


def test_of_the_same_box_the_class_further_above_its_threshold_stays() -> None:
    seen = detections([(0, 0, 9, 9), (0, 0, 9, 9), (20, 0, 29, 9)], [0.18, 0.15, 0.1], [0, 1, 0])
    found = keep(seen, np.asarray([0.15, 0.05], np.float32), nms_iou=0.7)
    assert (found.scores.tolist(), found.class_indices.tolist()) == (pytest.approx([0.15]), [1])


def test_a_box_thinner_than_a_pixel_is_no_object() -> None:
    seen = detections([(0, 0, 9, 0.5), (20, 0, 29, 9)], [0.9, 0.9], [0, 0])
    assert keep(seen, np.zeros(1, np.float32), nms_iou=0.7).boxes_xyxy[:, 0].tolist() == [20]


def test_a_class_without_a_threshold_has_the_default() -> None:
    scores = labeller(Bright(), thresholds={"wide": 0.9}).lowest_scores
    assert scores.tolist() == pytest.approx([DEFAULT_THRESHOLD, 0.9])


class Many(Bright):
    def predict(self, samples: Sequence[object]) -> list[Detections]:
        boxes = [(0, 0, 10, 10), (20, 0, 30, 1), (0, 20, 40, 40)]
        return [detections(boxes, [0.9, 0.8, 0.7], [0, 1, 1]) for _ in samples]


def test_masks_lie_beside_the_boxes_that_prompted_them_and_empty_ones_are_left_out() -> None:
    (found,) = Labeller(detector=Many(), segmenter=Halver()).label([np.zeros((50, 50, 3), np.uint8)])
    assert found.scores.tolist() == pytest.approx([0.9, 0.7])
    assert found.class_indices.tolist() == [0, 1]
    from pycocotools import mask as coco_mask

    assert [coco_mask.area(mask) for mask in found.masks or ()] == [50, 400]
    assert found.prompt_indices is None


def test_a_gpu_that_is_too_small_is_a_sentence_with_advice() -> None:
    class Full(Bright):
        def predict(self, samples: Sequence[object]) -> list[Detections]:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(OutOfGpuMemoryError, match="2 images at a time: lower the batch size"):
        labeller(Full()).label([np.zeros((8, 8, 3), np.uint8)] * 2)


def test_that_a_teacher_saw_more_than_it_gives_survives_the_threshold_only_if_all_is_above_it() -> None:
    seen = replace(detections([(0, 0, 9, 9), (20, 0, 29, 9)], [0.6, 0.5], [0, 1]), cut=True)
    assert keep(seen, np.asarray([0.7, 0.45], np.float32), nms_iou=0.7).cut
    assert not keep(seen, np.asarray([0.7, 0.55], np.float32), nms_iou=0.7).cut
    assert not keep(replace(seen, cut=False), np.asarray([0.1, 0.1], np.float32), nms_iou=0.7).cut


def test_boxes_in_the_band_below_the_threshold_are_marked() -> None:
    image = np.full((8, 8, 3), 255, np.uint8)
    (plain,) = labeller(Bright()).label([image])
    score = float(plain.scores.max())
    name = labeller(Bright()).classes[int(plain.class_indices[0])]
    thresholds = {name: score + 0.05}
    assert len(labeller(Bright(), thresholds=thresholds).label([image])[0]) < len(plain)
    (found,) = replace(labeller(Bright(), thresholds=thresholds), unsure_share=0.5).label([image])
    assert found.unsure is not None
    assert found.unsure[found.scores < score + 0.05].all()
    line = json.loads(image_line("a.png", (8, 8), found, [1, 2]))
    assert [one.get("ignore", 0) for one in line["objects"]] == found.unsure.tolist()
    assert "ignore" not in json.loads(image_line("a.png", (8, 8), plain, [1, 2]))["objects"][0]

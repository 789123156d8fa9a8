"""Ground truth is built once for all evaluations of a dataset."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from engine.dataset.types import CocoDataset, Detections
from engine.evaluation import ground_truth
from engine.evaluation.coco_ap import coco_ap, mean_iou
from engine.evaluation.example_images import choose_samples, make_record
from engine.evaluation.ground_truth import GroundTruth, GroundTruths
from engine.evaluation.intervals import compare_ap
from engine.evaluation.thresholds import operating_point


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every segmentation that is encoded."""
    calls: list[Any] = []
    encode = ground_truth.encode_segmentation

    def spy(segmentation: Any, height: int, width: int) -> Any:
        calls.append(segmentation)
        return encode(segmentation, height, width)

    monkeypatch.setattr(ground_truth, "encode_segmentation", spy)
    return calls


def test_masks_are_encoded_once_for_all_evaluations_of_equal_datasets(dataset: CocoDataset, encoded: list[Any]) -> None:
    truths = GroundTruths()
    for _ in range(2):
        same = replace(dataset, images=tuple(replace(image) for image in dataset.images))
        truth = truths.of(same, "segm")
        seen = list(truth.objects)
        assert coco_ap(truth, seen).ap == pytest.approx(1)
        assert mean_iou(truth, seen) == 1
        assert compare_ap(truth, seen, seen) is not None
        assert operating_point(truth, seen).confusion.missed == 0
        chosen = choose_samples(truth, seen, seen)
        assert chosen
        assert all(make_record(truth, index, seen[index], seen[index]).truth.masks is not None for index in chosen)
    objects = sum(map(len, dataset.annotations))
    assert objects > 0
    assert len(encoded) == objects


def test_other_sizes_objects_or_a_comparison_by_boxes_need_ground_truth_of_their_own(dataset: CocoDataset) -> None:
    truths = GroundTruths()
    first = truths.of(dataset, "segm")
    assert truths.of(dataset, "segm") is first
    assert truths.of(dataset, "bbox") is not first
    unsized = replace(dataset, images=tuple(replace(image, width=0, height=0) for image in dataset.images))
    assert truths.of(unsized, "bbox") is not truths.of(dataset, "bbox")
    fewer = replace(dataset, annotations=((), *dataset.annotations[1:]))
    assert truths.of(fewer, "segm") is not first


def test_crowds_are_apart_and_objects_without_a_mask_count_by_boxes_only(dataset: CocoDataset) -> None:
    crowded = next(i for i, objects in enumerate(dataset.annotations) if len(objects) > 2)
    crowd, bare, *others = dataset.annotations[crowded]
    changed = (replace(crowd, iscrowd=True), replace(bare, segmentation=None), *others)
    annotations = (*dataset.annotations[:crowded], changed, *dataset.annotations[crowded + 1 :])
    by_masks, by_boxes = (GroundTruth.of(replace(dataset, annotations=annotations), t) for t in ("segm", "bbox"))
    assert by_masks.objects[crowded].prompt_indices.tolist() == list(range(2, len(changed)))
    assert by_masks.crowds[crowded].prompt_indices.tolist() == [0]
    assert (len(by_boxes.objects[crowded]), len(by_boxes.crowds[crowded])) == (len(changed) - 1, 1)
    assert len(by_masks.coco()["annotations"]) == len(by_boxes.coco()["annotations"]) - 1


def test_a_dataset_without_images_has_empty_ground_truth() -> None:
    truth = GroundTruth.of(CocoDataset((), (), ("bolt",), (1,)), "segm")
    nothing: list[Detections] = []
    assert (len(truth), coco_ap(truth, nothing).ap) == (0, -1)

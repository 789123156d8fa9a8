"""What a report shows of each image, and which images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.dataset.types import CocoDataset, Detections
from engine.evaluation.example_images import (
    SampleRecord,
    agreement,
    choose_samples,
    make_record,
    read_samples,
    select_drawn,
)
from engine.evaluation.ground_truth import GroundTruth

from .conftest import HEIGHT, WIDTH, an_object, rectangle_rle, seen


def nothing(dataset: CocoDataset) -> list[Detections]:
    return [seen(scores=[]) for _ in dataset.images]


def truths(dataset: CocoDataset) -> list[Detections]:
    return [GroundTruth.of(dataset, "bbox").objects[i] for i in range(len(dataset))]


def test_as_many_detections_as_objects_are_shown_and_every_confident_one() -> None:
    box = (0, 0, 9, 9)
    detections = seen(*[box] * 5, scores=[0.9, 0.5, 0.31, 0.2, 0.01])
    assert len(select_drawn(detections, 1)) == 3
    assert len(select_drawn(detections, 4)) == 4
    assert len(select_drawn(detections, 5)) == 4  # the last is not worth showing
    assert len(select_drawn(seen(box, scores=[0.29]), 0)) == 0


def test_all_answers_to_prompts_are_shown() -> None:
    detections = replace(seen((0, 0, 9, 9), scores=[0.01]), prompt_indices=np.array([0]))
    assert len(select_drawn(detections, 1)) == 1


def test_agreement_counts_each_object_once_and_only_for_its_class() -> None:
    truth = seen((0, 0, 10, 10), (50, 50, 60, 60), scores=[1, 1], classes=[0, 1])
    detections = seen(
        (0, 0, 10, 9),
        (0, 0, 10, 10),
        (50, 50, 60, 60),
        (50, 50, 60, 56),
        scores=[0.9, 0.8, 0.7, 0.6],
        classes=[0, 0, 0, 1],
    )
    agreed = agreement(truth, detections)
    assert (agreed.objects, agreed.found, agreed.false) == (2, 2, 2)
    assert agreed.f1 == pytest.approx(2 / 3)


def test_agreement_compares_masks_where_there_are_masks() -> None:
    box = (10, 10, 30, 30)
    truth = replace(seen(box, scores=[1]), masks=[rectangle_rle(10, 10, 30, 30)])
    half = replace(seen(box, scores=[1]), masks=[rectangle_rle(10, 10, 19, 30)])
    assert agreement(truth, half).found == 0
    assert agreement(truth, truth).found == 1


def test_seeing_nothing_where_nothing_is_is_right() -> None:
    empty = seen(scores=[])
    assert agreement(empty, empty).f1 == 1
    assert agreement(empty, seen((0, 0, 9, 9), scores=[0.9])).f1 == 0


def test_a_typical_the_fullest_and_the_worst_image_are_chosen(dataset: CocoDataset) -> None:
    after = truths(dataset)
    after[3] = seen(scores=[])
    chosen = choose_samples(GroundTruth.of(dataset, "bbox"), nothing(dataset), after, count=4)
    assert chosen[0] in (0, 4)  # of 1, 2, 3 and 5 objects: those next to the median
    assert chosen[1] == 2
    assert 3 in chosen
    assert chosen == choose_samples(GroundTruth.of(dataset, "bbox"), nothing(dataset), after, count=4)


def test_no_image_is_chosen_twice_and_few_images_are_no_error(dataset: CocoDataset) -> None:
    assert sorted(choose_samples(GroundTruth.of(dataset, "bbox"), nothing(dataset), truths(dataset), count=9)) == [
        0,
        2,
        3,
        4,
    ]
    empty = dataset.subset([1])
    assert choose_samples(GroundTruth.of(empty, "segm"), nothing(empty), nothing(empty)) == [0]
    none = dataset.subset([])
    assert choose_samples(GroundTruth.of(none, "bbox"), [], []) == []


def test_classes_not_seen_yet_come_before_others(dataset: CocoDataset) -> None:
    alike = dataset.subset([3] * 9)
    last_is_rare = replace(alike, annotations=(*alike.annotations[:8], (an_object((4, 10, 20, 40), 1),)))
    assert 8 in choose_samples(GroundTruth.of(last_is_rare, "bbox"), nothing(alike), nothing(alike), count=5)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_a_record_comes_back_from_json_as_it_was(dataset: CocoDataset, iou_type: str) -> None:
    after = GroundTruth.of(dataset, iou_type).objects[2]
    record = make_record(GroundTruth.of(dataset, iou_type), 2, seen((1, 2, 30, 40), scores=[0.4]), after)
    again = SampleRecord.model_validate(json.loads(record.model_dump_json()))
    assert again == record
    assert (again.file_name, again.image_name, again.classes) == ("2.jpg", "000002.jpg", ("bolt", "nut"))
    restored = again.after.detections(width=WIDTH, height=HEIGHT)
    assert restored.boxes_xyxy.tolist() == after.boxes_xyxy.tolist()
    assert restored.masks == after.masks
    assert agreement(again.truth.detections(width=WIDTH, height=HEIGHT), restored).found == 5


def test_what_the_trainer_left_in_a_folder_is_read_back(dataset: CocoDataset, tmp_path: Path) -> None:
    record = make_record(GroundTruth.of(dataset, "bbox"), 4, seen(scores=[]), truths(dataset)[4])
    (tmp_path / "samples").mkdir()
    Image.new("RGB", (WIDTH // 2, HEIGHT // 2), (200, 10, 10)).save(tmp_path / "samples" / "000004.jpg")
    (tmp_path / "samples.json").write_text(json.dumps([record.model_dump(mode="json")]))
    (view,) = read_samples(tmp_path)
    assert view.record == record
    assert view.image.shape == (HEIGHT // 2, WIDTH // 2, 3)
    assert np.abs(view.image.astype(int) - (200, 10, 10)).max() < 4

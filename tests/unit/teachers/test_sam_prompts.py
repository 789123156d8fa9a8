from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny_sam import scene

from engine.augmentation import Augmenter
from engine.dataset.types import CocoAnnotation
from engine.models.detected_boxes import detected_boxes, with_detected
from engine.spec import AugmentationSpec, EnvironmentSpec, Intensity, Viewpoint
from engine.teachers.sam.prompts import (
    draw_points,
    jitter_boxes,
    take_turns,
    targets_of,
)

BOXES = np.tile(np.array([[20, 30, 60, 40]], np.float32), (4000, 1))


def annotations(count: int, *, crowds: tuple[int, ...] = (), bare: tuple[int, ...] = ()) -> list[CocoAnnotation]:
    return [
        CocoAnnotation(i, 0, (0, 0, 9, 9), 81, i in crowds, None if i in bare else [[0, 0, 9, 0, 9, 9]])
        for i in range(count)
    ]


def test_crowds_and_objects_without_a_mask_are_never_targets() -> None:
    sample = scene(6, crowds=(1, 4))
    sample.masks[2] = False
    assert targets_of(sample).tolist() == [0, 3, 5]
    assert targets_of(replace(sample, masks=None)).tolist() == []
    assert take_turns(annotations(6, crowds=(1, 4), bare=(2,)), 10, 3).tolist() == [0, 3, 5]
    assert take_turns(annotations(2, crowds=(0, 1)), 10, 0).tolist() == []


@pytest.mark.parametrize(("count", "limit"), [(12, 5), (26, 25), (100, 25), (7, 1)])
def test_all_objects_of_a_full_image_are_seen_in_as_few_visits_as_can_be(count: int, limit: int) -> None:
    visits = [take_turns(annotations(count), limit, visit).tolist() for visit in range(3 * count)]
    assert all(len(set(visit)) == limit for visit in visits)
    enough = -(-count // limit)
    for begin in range(2 * count):
        assert {index for visit in visits[begin : begin + enough] for index in visit} == set(range(count))
    times = np.bincount([index for visit in visits[:count] for index in visit], minlength=count)
    assert times.min() == times.max() == limit, "none is shown more often than others"


def test_a_detectors_boxes_move_with_the_objects() -> None:
    sample = scene(4, size=(96, 128))
    boxes = sample.boxes_xyxy + np.array([2, 1, 3, -1], np.float32)
    boxes[2] = np.nan
    both = with_detected(sample, boxes)
    assert targets_of(both).tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(detected_boxes(both, targets_of(both)), boxes)
    spec = AugmentationSpec(environment=EnvironmentSpec(viewpoint=Viewpoint.OVERHEAD), intensity=Intensity.HIGH)
    exact = with_detected(sample, sample.boxes_xyxy)
    for seed in range(5):  # however loose a turned box gets, what fits the object goes on to fit it
        view = Augmenter(spec)(exact, seed)
        objects = targets_of(view)
        np.testing.assert_allclose(detected_boxes(view, objects), view.boxes_xyxy[objects], atol=1e-3)
    moved = 0
    for seed in range(20):
        view = Augmenter(spec)(both, seed)
        objects = targets_of(view)
        found = detected_boxes(view, objects)
        original = view.annotation_indices[objects]
        assert np.isnan(found[original == 2]).all()
        for box, true in zip(found[original != 2], view.boxes_xyxy[objects][original != 2], strict=True):
            if not np.isnan(box).any():
                assert np.abs(box - true).max() < 16
                moved += not np.allclose(true, sample.boxes_xyxy[original[0]])
    assert moved > 10


def test_without_detected_boxes_there_are_none() -> None:
    sample = scene(3)
    assert np.isnan(detected_boxes(sample, targets_of(sample))).all()


def test_the_edges_of_a_box_move_in_proportion_to_its_sides() -> None:
    jittered = jitter_boxes(BOXES, std=0.1, width=200, height=100, rng=np.random.default_rng(0))
    moved = jittered - BOXES
    assert np.abs(moved.mean(axis=0)).max() < 0.2
    np.testing.assert_allclose(moved.std(axis=0), [3.8, 0.95, 3.8, 0.95], rtol=0.05)  # of 4 and 1, cut off
    assert np.abs(moved).max() <= 8


def test_without_jitter_boxes_stay_as_they_are() -> None:
    assert np.array_equal(jitter_boxes(BOXES, std=0, width=200, height=100, rng=np.random.default_rng(0)), BOXES)


def test_jittered_boxes_stay_in_the_image_and_keep_their_corners_in_order() -> None:
    jittered = jitter_boxes(BOXES, std=0.5, width=62, height=41, rng=np.random.default_rng(0))
    assert (jittered[:, :2] >= 0).all()
    assert (jittered[:, 2:] <= (62, 41)).all()
    assert (jittered[:, 2:] - jittered[:, :2] >= 1).all()


def test_a_box_thinner_than_a_pixel_keeps_its_edges() -> None:
    thin = np.array([[20, 30, 20.5, 60]], np.float32)
    jittered = jitter_boxes(thin, std=0.05, width=200, height=100, rng=np.random.default_rng(0))
    assert jittered[0, [0, 2]].tolist() == [20, 20.5]
    assert jittered[0, [1, 3]].tolist() != [30, 60]


def test_points_lie_on_their_objects_and_reach_all_of_them() -> None:
    ring = scene(1).masks[0]
    rows, columns = np.nonzero(ring)
    ring[round(rows.mean()), round(columns.mean())] = False
    masks = np.repeat(ring[None], 3000, axis=0)
    points = draw_points(masks, np.random.default_rng(0)).astype(int)
    assert ring[points[:, 1], points[:, 0]].all()
    assert len(np.unique(points, axis=0)) == ring.sum()

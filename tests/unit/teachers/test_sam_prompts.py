from __future__ import annotations

from dataclasses import replace

import numpy as np
from tiny_sam import scene

from engine.teachers.sam_prompts import draw_objects, draw_points, jitter_boxes

BOXES = np.tile(np.array([[20, 30, 60, 40]], np.float32), (4000, 1))


def test_crowds_and_objects_without_a_mask_are_never_drawn() -> None:
    sample = scene(6, crowds=(1, 4))
    sample.masks[2] = False
    assert draw_objects(sample, 10, np.random.default_rng(0)).tolist() == [0, 3, 5]
    assert draw_objects(replace(sample, masks=None), 10, np.random.default_rng(0)).tolist() == []


def test_no_more_than_the_limit_are_drawn_and_all_are_seen_over_the_visits() -> None:
    sample, rng = scene(12), np.random.default_rng(0)
    visits = [draw_objects(sample, 5, rng).tolist() for _ in range(20)]
    assert all(len(set(visit)) == 5 for visit in visits)
    assert {index for visit in visits for index in visit} == set(range(12))


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

"""Boxes, masks and names lie where they belong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from pycocotools import mask as coco_mask

from engine.evaluation.drawing import color_of, draw, draw_readable, ink_on, label_of, rescaled

from .conftest import CLASSES, HEIGHT, WIDTH, rectangle_rle, seen

GREY = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)


def has_color(pixels: np.ndarray, class_index: int) -> np.ndarray:
    return (pixels == color_of(class_index)).all(-1)


def test_a_box_is_drawn_on_its_edges_in_the_colour_of_its_class() -> None:
    drawn = draw(GREY, seen((30, 30, 90, 70), scores=[0.9], classes=[1]), CLASSES)
    assert drawn.shape == GREY.shape
    on_edges = has_color(drawn, 1)
    assert on_edges[70, 30:91].all()
    assert on_edges[30:71, 90].all()
    assert not on_edges[45:60, 50:80].any()
    assert (GREY == 120).all()


def test_unsure_detections_are_dashed() -> None:
    box = (30, 30, 90, 70)
    solid = has_color(draw(GREY, seen(box, scores=[0.9]), CLASSES, score_threshold=0.3), 0)[70, 30:91]
    dashed = has_color(draw(GREY, seen(box, scores=[0.1]), CLASSES, score_threshold=0.3), 0)[70, 30:91]
    assert solid.all()
    assert 0.3 < dashed.mean() < 0.8


def test_dashes_are_seen_on_a_photo_of_their_own_colour() -> None:
    photo = np.full((HEIGHT, WIDTH, 3), color_of(0), np.uint8)
    line = draw(photo, seen((30, 30, 90, 70), scores=[0.1]), CLASSES, score_threshold=0.3)[70, 30:91].astype(int)
    assert 0.3 < (np.abs(line - color_of(0)).sum(-1) > 200).mean() < 0.7


def test_small_images_are_enlarged_until_names_can_be_read() -> None:
    small = np.full((192, 256, 3), 120, np.uint8)
    drawn = draw_readable(small, seen((30, 60, 90, 140), scores=[0.9]), CLASSES)
    assert drawn.shape == (480, 640, 3)
    assert has_color(drawn, 0)[350, 75:225].all()  # the lower edge, 2.5 times as far
    large = np.full((700, 900, 3), 120, np.uint8)
    assert draw_readable(large, seen(scores=[]), CLASSES).shape == large.shape


def test_masks_tint_what_they_cover_and_nothing_else() -> None:
    detections = replace(
        seen((30, 30, 90, 70), scores=[0.9]), masks=[rectangle_rle(30, 30, 90, 70)], prompt_indices=np.array([1])
    )
    changed = (draw(GREY, detections, CLASSES) != GREY).any(-1)
    assert (changed == coco_mask.decode(detections.masks[0]).astype(bool)).all()


def test_detections_are_scaled_with_their_image() -> None:
    detections = replace(seen((30, 30, 90, 70), scores=[0.9]), masks=[rectangle_rle(30, 30, 90, 70)])
    half = rescaled(detections, size=(WIDTH, HEIGHT), new_size=(WIDTH // 2, HEIGHT // 2))
    assert half.boxes_xyxy.tolist() == [[15, 15, 45, 35]]
    mask = coco_mask.decode(half.masks[0])
    assert mask.shape == (HEIGHT // 2, WIDTH // 2)
    assert mask.sum() == mask[15:35, 15:45].sum() == 30 * 20


def test_odd_boxes_and_no_detections_are_drawn_without_complaint() -> None:
    assert (draw(GREY, seen(scores=[]), CLASSES) == GREY).all()
    odd = seen((-20, -20, 400, 400), (5, 5, 5, 5), (118, 78, 120, 80), scores=[0.9, 0.8, 0.1])
    assert draw(GREY, odd, CLASSES, score_threshold=0.3).shape == GREY.shape


def test_a_hundred_classes_have_colours_and_readable_names() -> None:
    assert len({color_of(i) for i in range(100)}) == 100
    assert (ink_on((255, 255, 0)), ink_on((0, 0, 120))) == ((0, 0, 0), (255, 255, 255))
    assert label_of(0, ("Äpfel",)) == "Äpfel"
    assert label_of(1, ("a", "血细胞")) == "#2"

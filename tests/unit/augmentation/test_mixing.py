"""Views made of several images: every box lies on its object, and views repeat by seed."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.augmentation import Augmenter, Mixer
from engine.augmentation.mixing import mosaic, paste
from engine.dataset.types import Sample
from engine.spec import AugmentationSpec, Intensity

GREY = 90
SHADES = (150, 180, 210, 240)
"""An object of class i is a rectangle of this grey value."""


def scene(seed: int, *, masks: bool = False, size: tuple[int, int] = (80, 120), objects: int = 3) -> Sample:
    """Grey image with rectangles, each in its own column, whose shade is their class."""
    rng = np.random.default_rng(seed)
    height, width = size
    image = np.full((height, width, 3), GREY, np.uint8)
    boxes, classes = [], []
    for column in range(objects):
        left = column * width // objects + int(rng.integers(2, 6))
        top, w, h = int(rng.integers(2, height // 2)), int(rng.integers(10, 24)), int(rng.integers(10, 30))
        classes.append(int(rng.integers(4)))
        image[top : top + h, left : left + w] = SHADES[classes[-1]]
        boxes.append((left, top, left + w, top + h))
    sample = Sample.of(image, boxes, classes)
    return replace(sample, masks=np.stack([rectangle(box, size) for box in boxes])) if masks else sample


def rectangle(box: tuple[int, int, int, int], size: tuple[int, int]) -> NDArray[np.bool_]:
    mask = np.zeros(size, np.bool_)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def check_boxes(sample: Sample, *, purity: float) -> None:
    """The middle of each box has the shade of its class, and the box its mask's extent."""
    height, width = sample.image.shape[:2]
    assert (sample.boxes_xyxy >= 0).all()
    assert (sample.boxes_xyxy <= (width, height, width, height)).all()
    for index, (box, label) in enumerate(zip(sample.boxes_xyxy, sample.class_indices, strict=True)):
        left, top, right, bottom = np.rint(box).astype(int)
        inside = sample.image[top + 1 : bottom - 1, left + 1 : right - 1, 0].astype(int)  # without blended edges
        assert not inside.size or (abs(inside - SHADES[label]) <= 12).mean() >= purity
        if sample.masks is not None:
            rows, columns = sample.masks[index].any(1).nonzero()[0], sample.masks[index].any(0).nonzero()[0]
            extent = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            assert np.abs(np.array(extent) - box).max() <= 2


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_boxes_and_masks_of_a_mosaic_lie_on_their_objects(seed: int, masks: bool) -> None:
    sizes = [(80, 120), (50, 70), (200, 90), (64, 64)]
    scenes = [scene(10 * seed + i, masks=masks, size=size, objects=2) for i, size in enumerate(sizes)]
    joined = mosaic(scenes, np.random.default_rng(seed))
    assert joined.image.shape == (80, 120, 3)
    assert (joined.masks is not None) is masks
    check_boxes(joined, purity=0.6)
    assert 0 < len(joined) <= 8
    assert joined.annotation_indices.tolist() == list(range(len(joined)))


def test_objects_that_a_mosaic_cuts_off_are_dropped_and_crowds_are_not() -> None:
    """Each image is one object that fills it: any window shows a part of it, often less than 15 %."""
    whole = Sample.of(np.full((60, 60, 3), SHADES[0], np.uint8), [(0, 0, 60, 60)], [0])
    shares = []
    for seed in range(40):
        joined = mosaic([whole] * 4, np.random.default_rng(seed))
        assert len(joined) == 4  # a window of an image shows at least 1 / 1.6 of one of its sides
        crowd = replace(whole, is_crowd=np.array([True]))
        kept = mosaic([crowd] * 4, np.random.default_rng(seed))
        assert kept.is_crowd.all()
        assert len(kept) == 4
        corner = Sample.of(whole.image, [(0, 0, 60, 60), (0, 0, 4, 4)], [0, 0])
        shares.append(len(mosaic([corner] * 4, np.random.default_rng(seed))))
    assert min(shares) < 8


@pytest.mark.parametrize("masks", [False, True])
def test_copied_objects_have_their_box_class_and_mask(masks: bool) -> None:
    copied = 0
    for seed in range(30):
        host, donor = scene(seed, masks=masks), scene(100 + seed, masks=masks, size=(160, 240))
        joined = paste(host, donor, np.random.default_rng(seed))
        assert len(joined) >= len(host)
        check_boxes(joined, purity=0.6)
        added = joined.boxes_xyxy[len(host) :]
        copied += len(added)
        assert (joined.boxes_xyxy[: len(host)] == host.boxes_xyxy).all()
        if masks:
            assert joined.masks is not None
            assert joined.masks.sum(0).max() == 1  # hidden pixels belong to the copy alone
    assert copied > 30


@pytest.mark.parametrize("known", [True, False], ids=["an empty mask", "no masks"])
def test_a_copied_object_without_a_mask_gets_an_empty_one(known: bool) -> None:
    host, donor = scene(1, masks=True), scene(2, objects=1)
    donor = replace(donor, masks=np.zeros((1, *donor.image.shape[:2]), np.bool_) if known else None)
    joined = paste(host, donor, np.random.default_rng(0))
    assert len(joined) == len(host) + 1
    assert joined.masks is not None
    assert not joined.masks[-1].any(), "a rectangle is no mask to learn"
    left, top, right, bottom = np.rint(joined.boxes_xyxy[-1]).astype(int)
    assert not joined.masks[:, top + 1 : bottom - 1, left + 1 : right - 1].any(), "what lies below is hidden"


def test_crowds_and_large_objects_are_not_copied() -> None:
    host, donor = scene(1), scene(2, objects=1)
    rng = np.random.default_rng(0)
    assert paste(host, replace(donor, is_crowd=np.array([True])), rng) is host
    large = Sample.of(donor.image, [(0, 0, 100, 70)], [0])
    assert paste(host, large, rng) is host
    assert len(paste(host, donor, rng)) == len(host) + 1


def test_a_crowd_stays_an_ignored_region_where_an_object_is_copied() -> None:
    host = Sample.of(np.full((80, 120, 3), GREY, np.uint8), [(0, 0, 120, 80)], [0])
    joined = paste(replace(host, is_crowd=np.array([True])), scene(2, objects=1), np.random.default_rng(0))
    assert joined.is_crowd.tolist() == [True, False]
    assert joined.boxes_xyxy[0].tolist() == [0, 0, 120, 80]


def load(index: int, *, masks: bool) -> Sample:
    return scene(index, masks=masks)


def mixer(mosaic_percent: int, copy_percent: int) -> Mixer:
    spec = AugmentationSpec(mosaic=mosaic_percent, paste=copy_percent)
    loads = (partial(load, masks=False), partial(load, masks=True))
    return Mixer(spec, *loads, images=20, shown=range(20), augment=Augmenter(AugmentationSpec()))


def test_a_view_is_a_function_of_the_seed_in_any_process() -> None:
    one, other = mixer(50, 50), pickle.loads(pickle.dumps(mixer(50, 50)))
    views = [one(scene(0), seed) for seed in range(8)]
    again = [other(scene(0), seed) for seed in reversed(range(8))]
    for view, same in zip(views, reversed(again), strict=True):
        assert (view.image == same.image).all()
        assert (view.boxes_xyxy == same.boxes_xyxy).all()
    assert len({view.image.tobytes() for view in views}) > 1


def test_percentages_are_shares_of_the_views() -> None:
    plain = replace(mixer(30, 0), augment=lambda sample, _: sample)
    sample = scene(0)
    mixed = sum(plain(sample, seed) is not sample for seed in range(400))
    assert 80 < mixed < 160
    off = replace(plain, spec=AugmentationSpec(intensity=Intensity.NONE))
    assert all(off(sample, seed) is sample for seed in range(20))

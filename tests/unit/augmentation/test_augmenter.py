"""Whatever happens to an image, boxes and masks stay where the objects are."""

from __future__ import annotations

import pickle
import random
from dataclasses import replace

import numpy as np
import pytest
from loops import nonempty

from engine.augmentation import Augmenter, ChosenTransform, contact_sheet, select
from engine.augmentation.pipeline import Pipeline
from engine.augmentation.preview import COLORS, GAP, TILE
from engine.augmentation.transform_table import ROWS, Levels, Row
from engine.dataset.types import Sample
from engine.spec import AugmentationSpec, Characteristic, EnvironmentSpec, Intensity, Motion, Viewpoint, Weather

EVERYTHING = AugmentationSpec(
    characteristics=[Characteristic.CHANGES_SHAPE, Characteristic.ARTICULATED, Characteristic.REFLECTIVE_SURFACE],
    environment=EnvironmentSpec(
        lighting="low",
        weather=Weather.MIXED,
        motion=Motion.CAMERA,
        viewpoint=Viewpoint.OVERHEAD,
        background="cluttered",
    ),
    intensity=Intensity.HIGH,
)
EMPTY = np.zeros((160, 200), dtype=np.bool_)


def always(row: Row) -> Augmenter:
    """Applies one row, at its strongest, to every sample."""
    params = {name: value.high if isinstance(value, Levels) else value for name, value in row.params.items()}
    augmenter = Augmenter(AugmentationSpec())
    augmenter.chosen = (ChosenTransform(row.slot, row.transform, params, 1.0, row.needs_masks, row.because),)
    return augmenter


def ellipse(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    y, x = np.mgrid[:160, :200] + 0.5
    x, y = (2 * x - left - right) / (right - left), (2 * y - top - bottom) / (bottom - top)
    return x**2 + y**2 <= 1


def rectangle(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = EMPTY.copy()
    mask[top:bottom, left:right] = True
    return mask


def box_around(region: np.ndarray) -> list[int]:
    rows, columns = region.any(1).nonzero()[0], region.any(0).nonzero()[0]
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def drawn(*masks: np.ndarray, with_masks: bool = True) -> Sample:
    """White objects on black, each of its own class."""
    image = np.zeros((*EMPTY.shape, 3), dtype=np.uint8)
    for mask in masks:
        image[mask] = 255
    sample = Sample.of(image, [box_around(mask) for mask in masks], list(range(len(masks))))
    return replace(sample, masks=np.array(masks, dtype=np.bool_).reshape(-1, *EMPTY.shape)) if with_masks else sample


def same(one: Sample, other: Sample) -> bool:
    fields = ("image", "boxes_xyxy", "class_indices", "is_crowd", "annotation_indices", "masks")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in fields)


MOVING = [row for row in ROWS if row.slot in {r.slot for r in ROWS[: [r.slot for r in ROWS].index("things in front")]}]
each_moving_row = pytest.mark.parametrize("row", MOVING, ids=lambda row: f"{row.slot}-{'-'.join(row.when)}")
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.slot}-{'-'.join(row.when)}")


@each_moving_row
@pytest.mark.parametrize("shape", [rectangle, ellipse])
def test_boxes_and_masks_are_where_the_bright_region_is(row: Row, shape: object) -> None:
    augmenter, sample = always(row), drawn(shape(60, 50, 130, 90))
    for seed in range(8):
        view = augmenter(sample, seed)
        bright = view.image.min(axis=2) > 190
        assert len(view) == 1
        np.testing.assert_allclose(view.boxes_xyxy[0], box_around(bright), atol=2)
        wrong = (view.masks[0] != bright).sum()
        assert wrong <= 2 * np.abs(np.diff(bright.astype(int), axis=0)).sum() + 8  # a pixel along the outline


@pytest.mark.parametrize("row", [row for row in MOVING if not row.needs_masks], ids=lambda row: row.slot)
def test_boxes_follow_without_masks_too(row: Row) -> None:
    """Tilted boxes are those of the ellipse in them: objects seldom fill their corners."""
    augmenter, sample = always(row), drawn(ellipse(60, 50, 130, 90), with_masks=False)
    for seed in range(8):
        view = augmenter(sample, seed)
        assert view.masks is None
        slack = 6 if row.transform == "Perspective" else 2  # which moves the corners
        np.testing.assert_allclose(view.boxes_xyxy[0], box_around(view.image.min(axis=2) > 190), atol=slack)


@pytest.mark.parametrize("row", [row for row in ROWS if row not in MOVING], ids=lambda row: row.slot)
def test_other_changes_leave_everything_in_its_place(row: Row) -> None:
    augmenter, sample = always(row), drawn(rectangle(60, 50, 130, 90), ellipse(10, 100, 40, 150))
    view = augmenter(sample, 1)
    np.testing.assert_allclose(view.boxes_xyxy, sample.boxes_xyxy, atol=1e-3)
    if row.slot != "things in front":
        assert (view.masks == sample.masks).all()


def test_what_is_hidden_is_no_longer_part_of_a_mask_and_the_box_closes_around_what_is_seen() -> None:
    [row] = [row for row in ROWS if row.slot == "things in front"]
    augmenter, sample = always(row), drawn(rectangle(5, 5, 195, 155))
    for seed in range(5):
        view = augmenter(sample, seed)
        hidden = (view.image != sample.image).any(axis=2)
        assert hidden.any()
        assert not (view.masks[0] & hidden).any()
        assert (view.masks[0] | hidden)[sample.masks[0]].all()
        assert view.boxes_xyxy[0].tolist() == box_around(view.masks[0])


def test_an_object_that_is_hidden_is_dropped() -> None:
    hide = ChosenTransform(
        "things in front",
        "CoarseDropout",
        {
            "num_holes_range": (1, 1),
            "hole_height_range": (0.99, 0.99),
            "hole_width_range": (0.99, 0.99),
            "fill_mask": 0,
        },
        1.0,
        False,
        "",
    )
    augmenter = Augmenter(AugmentationSpec())
    augmenter.chosen = (hide,)
    for with_masks in (True, False):
        assert len(augmenter(drawn(rectangle(60, 50, 130, 90), with_masks=with_masks), 0)) == 0


@each_row
@pytest.mark.parametrize("with_masks", [True, False])
def test_an_image_without_objects_goes_through_every_transform(row: Row, with_masks: bool) -> None:
    view = always(row)(drawn(with_masks=with_masks), 0)
    height, width = view.image.shape[:2]
    assert view.image.dtype == np.uint8
    assert view.boxes_xyxy.shape == (0, 4)
    assert (view.masks is None) if not with_masks else (view.masks.shape == (0, height, width))


@each_row
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 300), (32, 32), (33, 500)])
@pytest.mark.filterwarnings("error")
def test_no_image_is_too_small_and_no_box_too_thin(row: Row, height: int, width: int) -> None:
    augmenter, image = always(row), np.full((height, width, 3), 200, dtype=np.uint8)
    boxes = [[0, 0, width, height], [0, 0, 0, 0], [0.5, 0.5, 0.5000001, 0.7]]
    bare = Sample.of(image, boxes)
    for sample in (bare, replace(bare, masks=np.ones((3, height, width), dtype=np.bool_))):
        for seed in range(3):
            view = augmenter(sample, seed)
            assert view.image.size > 0
            assert len(view.class_indices) == len(view)


@each_row
def test_a_view_is_determined_by_sample_and_seed(row: Row) -> None:
    sample = drawn(rectangle(60, 50, 130, 90), ellipse(10, 100, 40, 150))
    sample = replace(sample, image=np.random.default_rng(0).integers(0, 256, sample.image.shape, dtype=np.uint8))
    augmenter = always(row)
    first = augmenter(sample, 7)
    augmenter(sample, 8)
    random.seed(1)
    np.random.seed(1)
    assert same(augmenter(sample, 7), first)
    assert same(always(row)(sample, 7), first)


@pytest.mark.parametrize("with_masks", [True, False])
def test_a_whole_pipeline_is_determined_by_sample_and_seed_and_survives_pickling(with_masks: bool) -> None:
    sample = drawn(rectangle(60, 50, 130, 90), ellipse(10, 100, 40, 150), with_masks=with_masks)
    augmenter = Augmenter(EVERYTHING)
    first = [augmenter(sample, seed) for seed in range(6)]
    again = pickle.loads(pickle.dumps(augmenter))
    assert all(same(again(sample, seed), view) for seed, view in reversed(list(enumerate(first))))
    assert not same(first[0], first[1])


def test_the_sample_itself_is_left_alone() -> None:
    sample = drawn(rectangle(60, 50, 130, 90))
    before = pickle.loads(pickle.dumps(sample))
    for seed in range(5):
        Augmenter(EVERYTHING)(sample, seed)
    assert same(sample, before)


def test_intensity_none_is_the_identity() -> None:
    sample = drawn(rectangle(60, 50, 130, 90))
    assert Augmenter(AugmentationSpec(intensity=Intensity.NONE))(sample, 0) is sample


def test_transforms_are_drawn_independently_of_each_other() -> None:
    pipeline = Pipeline(
        [ChosenTransform(name, name, {}, 0.5, False, "") for name in ("HorizontalFlip", "VerticalFlip")]
    )
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    image[0, 0] = 255
    corners = set()
    for seed in range(30):
        pipeline.seed(seed)
        moved = pipeline.move(image, np.zeros((0, 4), np.float32), None).image
        corners.add(tuple(int(place) for place in np.argwhere(moved[..., 0])[0]))
    assert len(corners) == 4


def test_classes_crowds_and_annotations_stay_with_their_objects() -> None:
    regions = [rectangle(x, y, x + 30, y + 25) for y in (10, 60, 110) for x in (10, 70, 130)]
    image = np.zeros((*EMPTY.shape, 3), dtype=np.uint8)
    for number, region in enumerate(regions):
        image[region] = 20 + 10 * number  # the shade says which it is
    sample = replace(
        drawn(*regions),
        image=image,
        is_crowd=np.arange(9) % 2 == 1,
        annotation_indices=np.arange(100, 109),
    )
    spec = AugmentationSpec(characteristics=[Characteristic.DENSE], environment=EnvironmentSpec(viewpoint="overhead"))
    augmenter = Augmenter(spec)
    augmenter.chosen = tuple(c for c in augmenter.chosen if c.slot in {row.slot for row in MOVING})
    counts = set()
    for seed in range(20):
        view = augmenter(sample, seed)
        counts.add(len(view))
        for mask, which, crowd, annotation in zip(
            nonempty(view.masks), view.class_indices, view.is_crowd, view.annotation_indices, strict=True
        ):
            assert abs(np.median(view.image[mask][:, 0]) - (20 + 10 * which)) <= 1
            assert crowd == which % 2
            assert annotation == 100 + which
    assert min(counts) < 9  # a crop cuts some away


def test_masks_that_overlap_keep_all_their_pixels() -> None:
    masks = (rectangle(40, 40, 120, 100), rectangle(60, 50, 140, 120), rectangle(70, 60, 90, 80))
    [flip] = [row for row in ROWS if row.transform == "HorizontalFlip"]
    view = always(flip)(drawn(*masks), 0)
    assert (view.masks == np.array(masks)[:, :, ::-1]).all()


def test_an_object_without_a_mask_among_others_that_have_one_keeps_its_box() -> None:
    [flip] = [row for row in ROWS if row.transform == "HorizontalFlip"]
    sample = drawn(rectangle(40, 40, 120, 100), rectangle(150, 10, 190, 30))
    sample = replace(sample, masks=np.stack([sample.masks[0], EMPTY]))
    view = always(flip)(sample, 0)
    np.testing.assert_allclose(view.boxes_xyxy, [[80, 40, 160, 100], [10, 10, 50, 30]], atol=1e-3)
    assert not view.masks[1].any()


def test_boxes_between_pixels_stay_there_when_nothing_tilts_them() -> None:
    [flip] = [row for row in ROWS if row.transform == "HorizontalFlip"]
    view = always(flip)(Sample.of(drawn().image, [[10.25, 20.5, 30.75, 40.125]]), 0)
    np.testing.assert_allclose(view.boxes_xyxy, [[169.25, 20.5, 189.75, 40.125]], atol=1e-3)


def test_a_sliver_left_at_the_edge_is_dropped() -> None:
    [crop] = [row for row in ROWS if row.slot == "crop" and not row.when]
    sample = drawn(rectangle(0, 0, 60, 60), rectangle(100, 80, 200, 160), with_masks=False)
    for seed in range(30):
        view = always(crop)(sample, seed)
        areas = np.prod(view.boxes_xyxy[:, 2:] - view.boxes_xyxy[:, :2], axis=1)
        assert len(view) >= 1
        assert (areas / np.array([3600, 8000])[view.class_indices] >= 0.149).all()


def test_a_crop_keeps_one_object_whole() -> None:
    [crop] = [row for row in ROWS if row.slot == "crop" and row.when]
    sample = drawn(rectangle(0, 0, 20, 20), rectangle(180, 140, 200, 160), with_masks=False)
    augmenter = always(crop)
    seen = set()
    for seed in range(20):
        view = augmenter(sample, seed)
        whole = np.prod(view.boxes_xyxy[:, 2:] - view.boxes_xyxy[:, :2], axis=1) > 399
        seen.update(view.class_indices[whole].tolist())
        assert whole.any()
    assert seen == {0, 1}


def test_boxes_only_datasets_get_no_transform_that_needs_masks() -> None:
    chosen = {c.slot for c in select(EVERYTHING) if c.needs_masks}
    assert chosen == {"free turn", "soft bend", "bend in parts"}
    sample = drawn(ellipse(60, 50, 130, 90), with_masks=False)
    augmenter = Augmenter(EVERYTHING)
    augmenter.chosen = tuple(replace(c, probability=1.0) for c in augmenter.chosen if c.needs_masks)
    assert same(augmenter(sample, 0), sample)


@pytest.mark.parametrize("with_masks", [True, False])
def test_the_preview_marks_the_objects_in_originals_and_views(with_masks: bool) -> None:
    sample = drawn(rectangle(60, 50, 130, 90), with_masks=with_masks)
    sheet = contact_sheet([sample], Augmenter(EVERYTHING), seed=3, columns=3)
    assert (sheet == contact_sheet([sample], Augmenter(EVERYTHING), seed=3, columns=3)).all()
    tiles = [GAP + column * (TILE + GAP) for column in range(3)]
    assert all((sheet[:, left : left + TILE] == COLORS[0]).all(axis=2).any() for left in nonempty(tiles))
    without = contact_sheet([Sample.of(sample.image)], lambda sample, seed: sample, seed=3)
    assert not (without == COLORS[0]).all(axis=2).any()

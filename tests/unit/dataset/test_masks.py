"""Masks in COCO's three encodings, right ones and wrong ones."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from coco_files import compressed, rectangle, triangle, uncompressed
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.dataset.checks.rle_validation import areas_of_texts
from engine.dataset.masks import box_of_segmentation, decode_masks, encode_mask, encode_segmentation
from engine.dataset.segmentations import MaskKind, classify, parse


def random_mask(seed: int, height: int, width: int) -> np.ndarray:
    """Blobs: noise, coarsened."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((height // 3 + 1, width // 3 + 1)) < rng.uniform(0, 1)
    return np.kron(coarse, np.ones((3, 3), bool))[:height, :width]


def kinds(*segmentations: Any, size: tuple[int, int] = (0, 0)) -> list[MaskKind]:
    """What is found in a block of annotations in images of a (width, height)."""
    raws = [msgspec.Raw(json.dumps(one).encode()) for one in segmentations]
    return [MaskKind(kind) for kind in classify(raws, np.array([size] * len(raws), np.float64))]


def test_a_mask_is_the_same_in_every_encoding() -> None:
    for seed in range(30):
        mask = random_mask(seed, 40, 31)
        for segmentation in (compressed(mask), uncompressed(mask), encode_mask(mask)):
            (decoded,) = decode_masks([segmentation], 40, 31)
            assert np.array_equal(decoded, mask)


def test_polygons_of_one_object_are_drawn_together() -> None:
    parts = [rectangle(2, 3, 4, 5), rectangle(10, 3, 6, 2)]
    (mask,) = decode_masks([[parts[0][0], parts[1][0]]], 20, 20)
    expected = np.zeros((20, 20), bool)
    expected[3:8, 2:6] = expected[3:5, 10:16] = True
    assert np.array_equal(mask, expected)
    assert box_of_segmentation([parts[0][0], parts[1][0]], 20, 20) == (2, 3, 14, 5)


def test_no_masks_give_an_empty_array() -> None:
    assert decode_masks([], 4, 6).shape == (0, 4, 6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=6))
def test_areas_are_read_from_many_texts_at_once(shapes: list[tuple[int, int, int]]) -> None:
    masks = [random_mask(*shape) for shape in shapes]
    texts = [compressed(mask)["counts"] for mask in masks]
    areas = areas_of_texts(texts, [mask.size for mask in masks])
    assert areas.tolist() == [int(mask.sum()) for mask in masks]
    assert areas_of_texts(texts, [mask.size + 1 for mask in masks]).tolist() == [-1] * len(masks)


@settings(max_examples=300, deadline=None)
@given(st.text("0123456789PQ`aonmLM\\~ é", max_size=12), st.integers(1, 200))
def test_invalid_run_lengths_never_reach_pycocotools(text: str, pixels: int) -> None:
    (area,) = areas_of_texts([text], [pixels])
    if area < 0:
        with pytest.raises(ValueError, match="run lengths"):
            decode_masks([{"size": [pixels, 1], "counts": text}], pixels, 1)
    else:
        (mask,) = decode_masks([{"size": [pixels, 1], "counts": text}], pixels, 1)
        assert mask.sum() == area


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [5, 4], "counts": [20]},
        {"size": [4, 5], "counts": [3, 18]},
        {"size": [4, 5], "counts": [25, -5]},
        {"counts": "0"},
        [[1, 2, 3, 4]],
        "polygon",
    ],
)
def test_invalid_mask_encodings_are_refused(segmentation: Any) -> None:
    with pytest.raises(ValueError, match=r".+"):
        encode_segmentation(segmentation, 4, 5)


def test_mask_kinds_are_classified() -> None:
    mask = np.eye(12, 9, dtype=bool)
    found = kinds(
        [],
        None,
        [[]],
        triangle(1, 2, 30, 40),
        [triangle(1, 2, 30, 40)[0], rectangle(1, 2, 3, 4)[0]],
        [[1.5] * 300],
        rectangle(10, 20, 30, 40),
        [rectangle(10, 20, 30, 40)[0] + [10, 20]],
        [[10.001, 20, 40, 20.002, 40, 60, 10, 60]],
        [[10, 20, 40, 22, 40, 60, 10, 60]],
        [[10, 20, 40, 60, 40, 20, 10, 60]],
        [10, 20, 40, 22, 40, 60],
        compressed(mask),
        uncompressed(mask),
    )
    none, outline, box, runs = MaskKind.NONE, MaskKind.POLYGONS, MaskKind.RECTANGLE, MaskKind.RUN_LENGTHS
    assert found == [none] * 3 + [outline] * 3 + [box] * 3 + [outline] * 3 + [runs] * 2


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, 3, 4, 5, 6], [1, 2, 3]],
        [[1, 2, 3, 4, 5, None]],
        [[1, 2, 3, 4, 5, 1e300]],
        [[[1, 2], [3, 4], [5, 6]]],
        ["a"],
        "polygon",
        7,
        {},
        {"size": [4, 5]},
        {"size": [4, 5], "counts": ""},
        {"size": [4, 5], "counts": [20]},
        {"size": [4, 5], "counts": [19, 2]},
        {"size": [5, 4], "counts": [19, 1]},
        {"size": [4, 5], "counts": "zzz"},
        {"size": [10**9, 10**9], "counts": [0, 10**18]},
    ],
)
def test_invalid_segmentations_are_bad_masks(segmentation: Any) -> None:
    """A glance counts the numbers of a polygon; whether they are numbers shows when it is parsed."""
    (kind,) = kinds(segmentation, size=(5, 4))
    assert kind in (MaskKind.BAD, MaskKind.NONE) or parse(msgspec.Raw(json.dumps(segmentation).encode())) is None


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.integers(-10, 10**7) | st.floats(-5, 50) | st.sampled_from(["0", "size", "counts", "e04"]),
        lambda inner: st.lists(inner, max_size=8) | st.fixed_dictionaries({"size": inner, "counts": inner}),
        max_leaves=12,
    )
)
def test_all_accepted_masks_can_be_decoded(segmentation: Any) -> None:
    raw = msgspec.Raw(json.dumps(segmentation).encode())
    parsed = parse(raw)
    if kinds(segmentation, size=(6, 5))[0] in (MaskKind.POLYGONS, MaskKind.RECTANGLE, MaskKind.RUN_LENGTHS) and parsed:
        assert decode_masks([parsed], 5, 6).shape == (1, 5, 6)

"""Images go into a teacher as the published weights saw them; coordinates go there and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.dataset.images.preprocessing import (
    Geometry,
    LongestEdgeTransform,
    ShortestEdgeTransform,
    Transform,
    from_cxcywh_normalized,
    to_cxcywh_normalized,
)

SIZES = [(480, 640), (640, 480), (800, 1333), (333, 800), (800, 300), (64, 64), (50, 1000), (1001, 37), (97, 101)]

sides = st.integers(1, 3000)
transforms = st.sampled_from(
    [ShortestEdgeTransform(), ShortestEdgeTransform(96, 160), LongestEdgeTransform(), LongestEdgeTransform(96)]
)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_grounding_dino_sees_what_the_published_processor_makes(height: int, width: int) -> None:
    from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil

    image = noise(height, width)
    expected = GroundingDinoImageProcessorPil()(image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(ShortestEdgeTransform().image(image), expected, atol=1e-5)


@given(height=sides, width=sides, edges=st.sampled_from([(800, 1333), (96, 160), (600, 1000)]))
def test_grounding_dino_sizes_are_those_of_the_published_processor(
    height: int, width: int, edges: tuple[int, int]
) -> None:
    from transformers.image_transforms import get_size_with_aspect_ratio

    expected = get_size_with_aspect_ratio((height, width), *edges)
    assert ShortestEdgeTransform(*edges).plan(height, width).resized == tuple(max(side, 1) for side in expected)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_sam_sees_what_the_published_processor_makes(height: int, width: int) -> None:
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    image = noise(height, width)
    expected = SamImageProcessorPil()(image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(LongestEdgeTransform().image(image), expected, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_sam_pixels_and_prompts_are_those_of_segment_anything(height: int, width: int) -> None:
    from segment_anything.utils.transforms import ResizeLongestSide

    reference, image = ResizeLongestSide(1024), noise(height, width)
    geometry = LongestEdgeTransform().plan(height, width)
    assert geometry.resized == reference.get_preprocess_shape(height, width, 1024)
    boxes = np.array([[0, 0, width, height], [1.5, 2.25, 30, 31]], dtype=np.float32)
    np.testing.assert_allclose(geometry.to_model(boxes), reference.apply_boxes(boxes, (height, width)), rtol=1e-6)
    np.testing.assert_allclose(
        geometry.to_model(boxes[:, :2]), reference.apply_coords(boxes[:, :2], (height, width)), rtol=1e-6
    )
    pixels = reference.apply_image(image).transpose(2, 0, 1).astype(np.float32)
    pixels = (pixels - np.float32([[[123.675]], [[116.28]], [[103.53]]])) / np.float32(
        [[[58.395]], [[57.12]], [[57.375]]]
    )
    scaled_height, scaled_width = geometry.resized
    ours = LongestEdgeTransform().image(image)
    np.testing.assert_allclose(ours[:, :scaled_height, :scaled_width], pixels, atol=1e-5)
    assert not ours[:, scaled_height:].any()
    assert not ours[:, :, scaled_width:].any()


@given(transform=transforms, height=sides, width=sides, data=st.data())
def test_boxes_come_back_to_where_they_were(transform: Transform, height: int, width: int, data: st.DataObject) -> None:
    x = sorted(data.draw(st.floats(0, width)) for _ in range(2))
    y = sorted(data.draw(st.floats(0, height)) for _ in range(2))
    boxes = np.array([[x[0], y[0], x[1], y[1]], [0, 0, width, height]], dtype=np.float32)
    geometry = transform.plan(height, width)
    inside = geometry.to_model(boxes)
    np.testing.assert_allclose(geometry.to_original(inside), boxes, rtol=1e-6, atol=1e-3)
    np.testing.assert_allclose(inside[1], [0, 0, geometry.resized[1], geometry.resized[0]], rtol=1e-6)
    normalized = to_cxcywh_normalized(boxes, height, width)
    np.testing.assert_allclose(from_cxcywh_normalized(normalized, height, width), boxes, rtol=1e-6, atol=1e-3)
    np.testing.assert_allclose(normalized[1], [0.5, 0.5, 1, 1])
    np.testing.assert_allclose(to_cxcywh_normalized(inside, *geometry.resized), normalized, atol=1e-6)


def test_boxes_that_reach_out_of_the_image_are_clipped_on_the_way_back() -> None:
    geometry = LongestEdgeTransform().plan(100, 200)
    assert geometry.to_original(np.array([[-5.0, -5, 1024, 1024]])).tolist() == [[0, 0, 200, 100]]
    assert from_cxcywh_normalized(np.array([[0.5, 0.5, 2, 2]]), 100, 200).tolist() == [[0, 0, 200, 100]]


def test_no_boxes_are_no_boxes() -> None:
    none = np.zeros((0, 4), dtype=np.float32)
    geometry = ShortestEdgeTransform().plan(100, 200)
    for made in (geometry.to_model(none), geometry.to_original(none), to_cxcywh_normalized(none, 100, 200)):
        assert made.shape == (0, 4)


@pytest.mark.parametrize("transform", [ShortestEdgeTransform(96, 160), LongestEdgeTransform(128)])
@pytest.mark.parametrize(("height", "width"), [(50, 80), (300, 200), (64, 64), (37, 211)])
def test_a_drawn_box_is_where_its_coordinates_say(transform: Transform, height: int, width: int) -> None:
    image = np.zeros((height, width, 3), dtype=np.uint8)
    box = np.array([width // 5, height // 4, width - width // 3, height - height // 7], dtype=np.float32)
    left, top, right, bottom = box.astype(int)
    image[top:bottom, left:right] = 255
    geometry = transform.plan(height, width)
    bright = np.zeros(geometry.padded, dtype=bool)
    inside = slice(geometry.resized[0]), slice(geometry.resized[1])
    bright[inside] = transform.image(image)[0][inside] > 0
    rows, columns = bright.any(1).nonzero()[0], bright.any(0).nonzero()[0]
    seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_allclose(geometry.to_model(box), seen, atol=1)


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 200), width=st.integers(1, 200), size=st.sampled_from([16, 24, 64]))
def test_coverage_keeps_the_area_of_a_mask(height: int, width: int, size: int) -> None:
    masks = np.random.default_rng(height * width).random((2, height, width)) > 0.5
    masks[1] = True
    geometry = LongestEdgeTransform(96).plan(height, width)
    covered = geometry.coverage(masks, size)
    assert covered.shape == (2, size, size)
    assert covered.max() <= 1 + 1e-6
    cell = (96 / size) ** 2 / np.prod(geometry.scale)
    np.testing.assert_allclose(covered.sum((1, 2)) * cell, masks.sum((1, 2)), rtol=1e-4, atol=1e-3)


def test_coverage_is_the_share_of_each_cell() -> None:
    mask = np.zeros((1, 4, 8), dtype=bool)
    mask[0, :, :3] = True  # 3 of 8 columns, on a grid of 4 by 4 over a square of 8 by 8
    expected = np.zeros((4, 4))
    expected[:2, 0], expected[:2, 1] = 1, 0.5
    np.testing.assert_allclose(LongestEdgeTransform(8).plan(4, 8).coverage(mask, 4)[0], expected)
    assert LongestEdgeTransform(8).plan(4, 8).coverage(mask[:0], 4).shape == (0, 4, 4)


def test_coverage_agrees_with_pillow_where_cells_are_whole() -> None:
    mask = np.random.default_rng(0).random((1, 64, 64)) > 0.5
    expected = np.asarray(Image.fromarray(mask[0].astype(np.float32)).resize((16, 16), Image.Resampling.BOX))
    np.testing.assert_allclose(Geometry((64, 64), (64, 64), (64, 64)).coverage(mask, 16)[0], expected, atol=1e-5)

"""Label maps hold every pixel of every mask."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.augmentation.label_maps import Layers


@settings(max_examples=50, deadline=None)
@given(count=st.integers(0, 8), share=st.sampled_from([0.0, 0.01, 0.1, 0.9]), seed=st.integers(0, 1000))
def test_masks_come_back_from_their_layers(count: int, share: float, seed: int) -> None:
    masks = np.random.default_rng(seed).random((count, 13, 17)) < share
    layers = Layers.of(masks)
    boxes = layers.boxes(layers.maps)
    assert layers.maps.shape[1:] == (13, 17)
    assert (layers.masks(layers.maps, np.arange(count), boxes) == masks).all()
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        assert mask[top:bottom, left:right].sum() == mask.sum()
        if mask.any():
            assert mask[:, [left, right - 1]].any(axis=0).all()
            assert mask[[top, bottom - 1]].any(axis=1).all()


def test_masks_that_do_not_overlap_share_one_layer() -> None:
    masks = np.zeros((100, 40, 40), dtype=np.bool_)
    for number in range(100):
        row, column = divmod(number, 10)
        masks[number, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = True
    assert len(Layers.of(masks).maps) == 1
    masks[0, :6, :6] = True
    assert len(Layers.of(masks).maps) == 2

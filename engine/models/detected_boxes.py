"""Boxes that another teacher detected, as extra rows of a sample, so that they can be prompts. Plain numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from engine.dataset.types import Sample


def with_detected(sample: Sample, boxes_xyxy: NDArray[np.float32]) -> Sample:
    """Add detected boxes to a sample, so that augmentation transforms them with the objects.

    They are extra rows without a mask, marked by negative ``annotation_indices``.

    Args:
        sample: An image with N objects.
        boxes_xyxy: (N, 4) xyxy in pixels, NaN for undetected objects.
    """
    found = np.flatnonzero(~np.isnan(boxes_xyxy).any(axis=1))
    masks = sample.masks
    if masks is not None:
        masks = np.concatenate([masks, np.zeros((len(found), *masks.shape[1:]), np.bool_)])
    return replace(
        sample,
        boxes_xyxy=np.concatenate([sample.boxes_xyxy, boxes_xyxy[found].astype(np.float32)]),
        class_indices=np.concatenate([sample.class_indices, sample.class_indices[found]]),
        is_crowd=np.concatenate([sample.is_crowd, sample.is_crowd[found]]),
        annotation_indices=np.concatenate([sample.annotation_indices, -1 - sample.annotation_indices[found]]),
        masks=masks,
    )


def detected_boxes(sample: Sample, objects: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the (N, 4) boxes that :func:`with_detected` added for the objects, NaN if absent or lost."""
    boxes = np.full((len(objects), 4), np.nan, np.float32)
    row_of = {int(-1 - index): row for row, index in enumerate(sample.annotation_indices) if index < 0}
    for box, index in zip(boxes, sample.annotation_indices[objects], strict=True):
        if int(index) in row_of:
            box[:] = sample.boxes_xyxy[row_of[int(index)]]
    return boxes

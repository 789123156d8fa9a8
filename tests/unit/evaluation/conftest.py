"""A small dataset of drawn rectangles, whose truth is known to the pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from engine.dataset.types import CocoAnnotation, CocoDataset, CocoImage, Detections

WIDTH, HEIGHT = 120, 80
CLASSES = ("bolt", "nut")


def rectangle_rle(x1: float, y1: float, x2: float, y2: float) -> dict[str, Any]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[round(y1) : round(y2), round(x1) : round(x2)] = 1
    return coco_mask.encode(mask)


def an_object(box_xyxy: tuple[int, int, int, int], class_index: int = 0, *, mask: bool = True) -> CocoAnnotation:
    x1, y1, x2, y2 = box_xyxy
    box = (float(x1), float(y1), float(x2), float(y2))
    segmentation = rectangle_rle(*box_xyxy) if mask else None
    return CocoAnnotation(1, class_index, box, float((x2 - x1) * (y2 - y1)), False, segmentation)


def seen(*boxes: tuple[int, int, int, int], scores: list[float], classes: list[int] | None = None) -> Detections:
    return Detections(
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.asarray(scores, np.float32),
        np.asarray(classes or [0] * len(boxes), np.int64),
    )


@pytest.fixture
def dataset() -> CocoDataset:
    """Images with 2, 0, 5, 1 and 3 objects."""
    columns = [(4 + 22 * i, 10, 20 + 22 * i, 40) for i in range(5)]
    counts = (2, 0, 5, 1, 3)
    return CocoDataset(
        images=tuple(CocoImage(i, f"{i}.jpg", WIDTH, HEIGHT) for i in range(len(counts))),
        annotations=tuple(tuple(an_object(box, k % 2) for k, box in enumerate(columns[:n])) for n in counts),
        classes=CLASSES,
        category_ids=(1, 2),
    )

"""IoU of boxes, and conversion to COCO's form.

Boxes are xyxy (top left and bottom right corner, in pixels) everywhere except in files and pycocotools.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask


def box_iou(
    rows_xyxy: NDArray[np.floating], columns_xyxy: NDArray[np.floating], *, crowds: bool = False
) -> NDArray[np.float64]:
    """Return (N, M) IoU of boxes, as COCO computes it.

    Args:
        rows_xyxy: (N, 4) corners in pixels.
        columns_xyxy: (M, 4) corners in pixels.
        crowds: Divide by the area of each row's box instead of the union.
    """
    if not len(rows_xyxy) or not len(columns_xyxy):
        return np.zeros((len(rows_xyxy), len(columns_xyxy)))
    return np.asarray(coco_mask.iou(_xywh(rows_xyxy), _xywh(columns_xyxy), [int(crowds)] * len(columns_xyxy)))


def to_xywh(box_xyxy: Sequence[float]) -> list[float]:
    """Return a box as x, y of the top left corner, width and height.

    >>> to_xywh((1.0, 2.0, 4.0, 8.0))
    [1.0, 2.0, 3.0, 6.0]
    """
    left, top, right, bottom = box_xyxy
    return [left, top, right - left, bottom - top]


def _xywh(boxes_xyxy: NDArray[np.floating]) -> NDArray[np.float64]:
    boxes = boxes_xyxy.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes

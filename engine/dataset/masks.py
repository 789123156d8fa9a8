"""Convert masks in COCO's formats: polygons, run lengths as text, run lengths as lists of counts.

Coordinates are pixels, x right and y down, the top left corner of the image at (0, 0).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from engine.dataset.checks.rle_validation import area_of_counts, areas_of_texts
from engine.dataset.types import Rle


def encode_segmentation(segmentation: Any, height: int, width: int) -> Rle:
    """Return the compressed run lengths of a segmentation of a COCO file.

    Args:
        segmentation: Polygons (lists of x, y), or a mapping with ``size`` and ``counts`` (text or a list).
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Raises:
        ValueError: It is none of these, or of another size.
    """
    if isinstance(segmentation, list):
        polygons = [[float(v) for v in polygon] for polygon in segmentation if len(polygon) >= 6]
        if not polygons:
            raise ValueError("a polygon needs three points")
        merged: Rle = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
        return merged
    if not isinstance(segmentation, dict) or "counts" not in segmentation:
        raise ValueError("it is neither polygons nor run lengths")
    size, counts = [height, width], segmentation["counts"]
    if list(segmentation.get("size", size)) != size:
        raise ValueError(f"run lengths of {segmentation['size']} are not a mask of a {height}x{width} image")
    if isinstance(counts, list):
        area = area_of_counts(counts, height * width)
    else:
        counts = counts.decode("ascii") if isinstance(counts, bytes) else counts
        area = int(areas_of_texts([counts], [height * width])[0])
    if area < 0:
        raise ValueError(f"its run lengths are not those of {height}x{width} pixels")
    if isinstance(counts, list):
        rle: Rle = coco_mask.frPyObjects({"size": size, "counts": counts}, height, width)
        return rle
    return {"size": size, "counts": counts.encode("ascii")}


def decode_masks(segmentations: list[Any], height: int, width: int) -> NDArray[np.bool_]:
    """Return (N, height, width) masks of N segmentations of a COCO file."""
    if not segmentations:
        return np.zeros((0, height, width), np.bool_)
    rles = [encode_segmentation(one, height, width) for one in segmentations]
    stacked = coco_mask.decode(rles)  # (height, width, N), Fortran order
    return np.ascontiguousarray(stacked.transpose(2, 0, 1)).view(np.bool_)


def encode_mask(mask: NDArray[np.bool_]) -> Rle:
    """Return the compressed run lengths of a (height, width) mask."""
    rle: Rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return rle


def box_of_segmentation(segmentation: Any, height: int, width: int) -> tuple[float, float, float, float]:
    """x, y, width, height of the box around a segmentation; of polygons from their points, without drawing them."""
    if isinstance(segmentation, list):
        xs = [x for polygon in segmentation if len(polygon) >= 6 for x in polygon[0::2]]
        ys = [y for polygon in segmentation if len(polygon) >= 6 for y in polygon[1::2]]
        return float(min(xs)), float(min(ys)), float(max(xs) - min(xs)), float(max(ys) - min(ys))
    x, y, w, h = coco_mask.toBbox(encode_segmentation(segmentation, height, width))
    return float(x), float(y), float(w), float(h)

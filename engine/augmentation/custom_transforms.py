"""Transforms that albumentations lacks, or whose implementation is not suitable here.

Imported through :func:`engine.augmentation.pipeline.require_albumentations` only.
"""

from __future__ import annotations

from typing import Any

import albumentations
import cv2
import numpy as np
from albumentations.augmentations.crops.transforms import BaseCrop
from numpy.typing import NDArray

MIN_VISIBLE = 0.15
"""Objects with less than this share of their box in view are dropped: COCO's annotators skip such slivers, and a
teacher trained on them predicts objects that do not exist."""

AIRLIGHT = 220
"""Grey value of fully opaque fog."""


class ObjectCrop(BaseCrop):  # type: ignore[misc]
    """Crop a window with the image's aspect ratio that shows as much as possible of one object, drawn at random.

    Args:
        share: Range of the window's side relative to the image's.
        p: Share of the images that it is applied to.
    """

    def __init__(self, share: tuple[float, float], p: float) -> None:
        super().__init__(p=p)
        self.share = share

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """See the parent: draws the window."""
        share, boxes = self.py_random.uniform(*self.share), data["bboxes"]
        # Boxes are in 0..1 here; without boxes any window is used.
        box = boxes[self.py_random.randrange(len(boxes))] if len(boxes) else (0, 0, 1, 1)
        height, width = params["shape"][:2]
        left, right = self._window(box[0] * width, box[2] * width, width, share)
        top, bottom = self._window(box[1] * height, box[3] * height, height, share)
        return {"crop_coords": (left, top, right, bottom)}

    def _window(self, low: float, high: float, size: int, share: float) -> tuple[int, int]:
        length = max(1, round(size * share))
        ends = sorted((high - length, low))  # the window holds the object, or lies in it
        start = min(max(round(self.py_random.uniform(*ends)), 0), size - length)
        return start, start + length


class CoarseDropout(albumentations.CoarseDropout):  # type: ignore[misc]
    """Dropout that does not change boxes. The parent rounds every box of an image to whole pixels."""

    def apply_to_bboxes(self, bboxes: NDArray[Any], holes: NDArray[Any], **params: Any) -> NDArray[Any]:
        """Return (N, 4+) boxes in 0..1, without those that are mostly hidden."""
        height, width = params["shape"][:2]
        sides = np.asarray(holes).reshape(-1, 4) / (width, height, width, height)
        low = np.maximum(bboxes[:, None, :2], sides[:, :2])
        high = np.minimum(bboxes[:, None, 2:4], sides[:, 2:])
        hidden = np.prod(np.clip(high - low, 0, None), axis=-1).sum(axis=-1)
        areas = np.prod(bboxes[:, 2:4] - bboxes[:, :2], axis=-1)
        seen: NDArray[Any] = bboxes[hidden <= (1 - MIN_VISIBLE) * areas]
        return seen


class Fog(albumentations.ImageOnlyTransform):  # type: ignore[misc]
    """Drifting fog: ``J t + A (1 - t)``, where t is the transmission (Koschmieder 1924).

    The library's own fog draws thousands of blurred circles and takes up to 3 s per image.

    Args:
        density: Range of the maximum of 1 - t; the minimum is half of it.
        p: Share of the images that it is applied to.
    """

    def __init__(self, density: tuple[float, float], p: float) -> None:
        super().__init__(p=p)
        self.density = density

    def get_params(self) -> dict[str, Any]:
        """See the parent: draws a small density map, which is enlarged smoothly."""
        thickest = self.py_random.uniform(*self.density)
        return {"drifts": (thickest * self.random_generator.uniform(0.5, 1, (5, 5))).astype(np.float32)}

    def apply(self, img: NDArray[np.uint8], drifts: NDArray[np.float32], **params: Any) -> NDArray[np.uint8]:
        """Add fog to a (H, W, 3) uint8 image."""
        height, width = img.shape[:2]
        fog = cv2.resize(drifts, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
        seen: NDArray[np.float32] = img * (1 - fog) + AIRLIGHT * fog
        return np.clip(np.rint(seen), 0, 255).astype(np.uint8)


class _BoxesFromMasks:
    """Keeps boxes unchanged; they are computed from the masks afterwards.

    The parents warp a whole image for each box: 30 s for 300 boxes on a megapixel.
    """

    def apply_to_bboxes(self, bboxes: NDArray[Any], **params: Any) -> NDArray[Any]:
        return bboxes


class ThinPlateSpline(_BoxesFromMasks, albumentations.ThinPlateSpline):  # type: ignore[misc]
    """Smooth warp."""


class GridDistortion(_BoxesFromMasks, albumentations.GridDistortion):  # type: ignore[misc]
    """Warp on a grid."""

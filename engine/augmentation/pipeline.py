"""Build and run an albumentations pipeline of the chosen transforms.

albumentations is imported on first use: selection and description do not need it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.augmentation.selection import ChosenTransform
from engine.errors import ConfigError

READS_MASKS = frozenset({"Affine", "Perspective", "ThinPlateSpline", "GridDistortion", "CoarseDropout"})
"""After these, transformed boxes are too large, and are computed from the masks if there are any."""


@dataclass(frozen=True)
class Geometry:
    """Result of the geometric transforms.

    Attributes:
        image: (H', W', 3) uint8.
        maps: (L, H', W') uint16, the transformed label maps.
        boxes_xyxy: (M, 4) float32 of the remaining objects.
        indices: (M,) int64, indices of these objects in the input.
        loose: The boxes may be larger than the objects.
    """

    image: NDArray[np.uint8]
    maps: NDArray[np.uint16] | None
    boxes_xyxy: NDArray[np.float32]
    indices: NDArray[np.int64]
    loose: bool


class Pipeline:
    """Chosen transforms, built: first the geometric ones, then those that change only pixels."""

    def __init__(self, chosen: Sequence[ChosenTransform]) -> None:
        albumentations = require_albumentations()
        from engine.augmentation.custom_transforms import MIN_VISIBLE

        built = [_build(one) for one in chosen]
        moving = [t for t in built if isinstance(t, albumentations.DualTransform)]
        boxes = albumentations.BboxParams(
            "pascal_voc", min_visibility=MIN_VISIBLE, min_width=1, min_height=1, clip=True, filter_invalid_bboxes=True
        )
        # save_applied_params returns which transforms were drawn.
        self._moving = albumentations.Compose(moving, boxes, save_applied_params=True) if moving else None
        self._pixels = albumentations.Compose([t for t in built if not isinstance(t, albumentations.DualTransform)])

    def seed(self, seed: int) -> None:
        """Seed all random choices.

        ``Compose.set_random_seed`` is not used: it gives every transform the same numbers, so that all transforms
        with 50 % are always applied together.
        """
        for compose in (self._moving, self._pixels):
            if compose is not None:
                compose.set_random_state(np.random.default_rng(seed), random.Random(seed))

    def move(
        self, image: NDArray[np.uint8], boxes_xyxy: NDArray[np.float32], maps: NDArray[np.uint16] | None
    ) -> Geometry:
        """Apply the geometric transforms. ``maps`` are (L, H, W) label maps; see :class:`Geometry` for the rest."""
        indices = np.arange(len(boxes_xyxy))
        if self._moving is None:
            return Geometry(image, maps, boxes_xyxy, indices, loose=False)
        data = {"image": image, "bboxes": np.column_stack([boxes_xyxy, indices]).astype(np.float32)}
        if maps is not None and len(maps):
            data["masks"] = maps
        result = self._moving(**data)
        boxes = np.asarray(result["bboxes"], dtype=np.float32)
        boxes = boxes if boxes.size else np.zeros((0, 5), dtype=np.float32)
        moved = maps if maps is None or not len(maps) else result["masks"]
        if moved is not None and not len(moved):
            moved = np.zeros((0, *result["image"].shape[:2]), dtype=np.uint16)
        loose = any(name in READS_MASKS for name, _ in result["applied_transforms"])
        return Geometry(result["image"], moved, boxes[:, :4], boxes[:, 4].astype(np.int64), loose)

    def repaint(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Apply the transforms that change only pixels."""
        painted: NDArray[np.uint8] = self._pixels(image=image)["image"]
        return painted


def require_albumentations() -> Any:
    """Import and return albumentations.

    Raises:
        ConfigError: It is not installed.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # on import it asks the package index for a newer version
    try:
        import albumentations
        import cv2
    except ImportError as error:
        raise ConfigError(
            f"augmentation needs albumentations ({error}): pip install 'teacher-finetune[train]', "
            "or set augmentation.intensity to none"
        ) from None
    cv2.setNumThreads(0)  # there is one worker process per core: more threads would only wait for each other
    return albumentations


def _build(chosen: ChosenTransform) -> Any:
    albumentations = require_albumentations()
    from engine.augmentation import custom_transforms

    transform = getattr(custom_transforms, chosen.name, None) or getattr(albumentations, chosen.name)
    return transform(**chosen.params, p=chosen.probability)

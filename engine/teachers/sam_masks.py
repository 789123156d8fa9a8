"""From what SAM's decoder gives to masks of the original image, as run lengths."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

from engine.dataset.types import Rle
from engine.preprocessing import Geometry

PIXELS_AT_ONCE = 1 << 26
"""Mask pixels that are scaled up together: 256 MB."""


def original_masks(logits: Tensor, geometry: Geometry) -> Iterator[NDArray[np.uint8]]:
    """(P, 1, h, w) logits to (p, H, W) masks, a few at a time, as ``segment_anything.Sam.postprocess_masks`` has it."""
    height, width = geometry.resized
    at_once = max(1, PIXELS_AT_ONCE // max(geometry.original[0] * geometry.original[1], geometry.padded[0] ** 2))
    for some in torch.split(logits, at_once):
        padded = F.interpolate(some, geometry.padded, mode="bilinear", align_corners=False)
        original = F.interpolate(padded[..., :height, :width], geometry.original, mode="bilinear", align_corners=False)
        yield (original[:, 0] > 0).cpu().numpy().view(np.uint8)


def encode(masks: NDArray[np.uint8]) -> list[Rle]:
    """Run lengths of (P, H, W) masks."""
    encoded: list[Rle] = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0)))
    return encoded

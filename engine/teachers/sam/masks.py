"""Convert the output of SAM's decoder to RLE masks of the original image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

from engine.dataset.images.preprocessing import Geometry
from engine.dataset.types import Rle

PIXELS_AT_ONCE = 1 << 26
"""Mask pixels that are upscaled together: 256 MB."""


def original_masks(logits: Tensor, geometry: Geometry) -> Iterator[NDArray[np.uint8]]:
    """Yield (p, H, W) masks of (P, 1, h, w) logits, a few at a time, as ``segment_anything.Sam.postprocess_masks``."""
    height, width = geometry.resized
    at_once = max(1, PIXELS_AT_ONCE // max(geometry.original[0] * geometry.original[1], geometry.padded[0] ** 2))
    for some in torch.split(logits, at_once):
        padded = F.interpolate(some, geometry.padded, mode="bilinear", align_corners=False)
        original = F.interpolate(padded[..., :height, :width], geometry.original, mode="bilinear", align_corners=False)
        yield (original[:, 0] > 0).cpu().numpy().view(np.uint8)


def encode(masks: NDArray[np.uint8]) -> list[Rle]:
    """Encode (P, H, W) masks as run lengths."""
    encoded: list[Rle] = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0)))
    return encoded

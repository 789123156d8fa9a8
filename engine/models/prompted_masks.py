"""Convert the logits of prompted masks, as SAM decodes them, to RLE masks of the original image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

from engine.dataset.images.preprocessing import Geometry
from engine.dataset.types import Detections, Rle, Sample

PIXELS_AT_ONCE = 1 << 26
"""Mask pixels that are upscaled together: 256 MB."""


def original_masks(logits: Tensor, geometry: Geometry, *, padded: bool = True) -> Iterator[NDArray[np.uint8]]:
    """Yield (p, H, W) masks of (P, 1, h, w) logits, a few at a time.

    With padding they are scaled to the model's input and cropped first, as ``segment_anything.Sam.postprocess_masks``
    does; without it they are scaled directly, as SAM 2 does.
    """
    height, width = geometry.resized
    at_once = max(1, PIXELS_AT_ONCE // max(geometry.original[0] * geometry.original[1], geometry.padded[0] ** 2))
    for some in torch.split(logits, at_once):
        if padded:
            some = F.interpolate(some, geometry.padded, mode="bilinear", align_corners=False)[..., :height, :width]
        original = F.interpolate(some, geometry.original, mode="bilinear", align_corners=False)
        yield (original[:, 0] > 0).cpu().numpy().view(np.uint8)


def encode(masks: NDArray[np.uint8]) -> list[Rle]:
    """Encode (P, H, W) masks as run lengths."""
    encoded: list[Rle] = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0)))
    return encoded


def to_detections(
    sample: Sample, prompts: NDArray[np.int64], masks: list[Rle], ious: NDArray[np.floating]
) -> Detections:
    """Return detections by descending score, ties in the order of prompts. Empty masks are left out."""
    areas = coco_mask.area(masks) if masks else np.empty(0)
    order = np.argsort(-ious, kind="stable")
    order = order[areas[order] > 0]
    masks = [masks[i] for i in order]
    boxes = np.asarray(coco_mask.toBbox(masks) if masks else [], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    prompts = prompts[order].astype(np.int64)
    return Detections(
        boxes_xyxy=boxes,
        scores=ious[order].astype(np.float32),
        class_indices=sample.class_indices[prompts],
        masks=masks,
        prompt_indices=prompts,
    )

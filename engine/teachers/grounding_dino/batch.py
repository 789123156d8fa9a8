"""Collate examples for Grounding DINO: padded images, captions, and objects with their tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from engine.models.base import Batch, Example
from engine.models.feature_cache import pictures
from engine.teachers.grounding_dino.loss import Targets
from engine.teachers.grounding_dino.prompts import Prompt

STRIDES = (8, 16, 32, 64)
"""Pixels per position of each feature map."""


def canvas(height: int, width: int, *, places: int) -> tuple[int, int]:
    """Return the size to pad to, so that the feature maps have at least ``places`` positions to choose queries from.

    Only a very narrow image has fewer: its shorter side is extended. Backbones that round down need a position at
    stride 32.

    >>> canvas(800, 1333, places=900), canvas(13, 1333, places=900)
    ((800, 1333), (45, 1333))
    """
    while min(height, width) < STRIDES[2] or sum((height // s) * (width // s) for s in STRIDES) < places:
        height, width = (height + STRIDES[0], width) if height <= width else (height, width + STRIDES[0])
    return height, width


def on_canvas(pixel_values: Tensor, *, places: int) -> tuple[Tensor, Tensor]:
    """Pad images (B, 3, h, w) to their canvas (B, 3, H, W); also return the (B, H, W) mask, 1 on the image."""
    height, width = pixel_values.shape[2:]
    more = [new - old for new, old in zip(canvas(height, width, places=places), (height, width), strict=True)]
    mask = torch.ones_like(pixel_values[:, 0], dtype=torch.long)
    padding = (0, more[1], 0, more[0])
    return functional.pad(pixel_values, padding), functional.pad(mask, padding)


def collate(examples: Sequence[Example], prompts: Sequence[Sequence[Prompt]], *, places: int) -> Batch:
    """Collate R pairs of an image and a caption; R is the number of images unless one needs several captions.

    Args:
        examples: Examples of B images.
        prompts: Captions of each image.
        places: See :func:`canvas`.

    Returns:
        The fields of :func:`collate_pictures`; ``images`` (R,) the image of each pair; ``input_ids`` and
        ``attention_mask`` (R, T); the fields of :class:`Targets` of each pair, lists of R tensors: ``boxes`` (N, 4),
        ``tokens`` (N, T) bool, ``crowd_boxes`` (M, 4) and ``crowd_tokens`` (M, T) bool.
    """
    pairs = [(index, prompt) for index in range(len(examples)) for prompt in prompts[index]]
    length = max(len(prompt.input_ids) for _, prompt in pairs)
    targets = [_targets(examples[index], prompt, length) for index, prompt in pairs]
    return {
        **collate_pictures(examples, places=places),
        "images": torch.tensor([index for index, _ in pairs]),
        **encode([prompt for _, prompt in pairs], length),
        "boxes": [target.boxes for target in targets],
        "tokens": [target.tokens for target in targets],
        "crowd_boxes": [target.crowd_boxes for target in targets],
        "crowd_tokens": [target.crowd_tokens for target in targets],
    }


def collate_pictures(examples: Sequence[Example], *, places: int) -> Batch:
    """Collate the image fields of B examples.

    Returns:
        ``pixel_values`` (B, 3, H, W), padded with 0 at the right and below, ``pixel_mask`` (B, H, W), 1 on the image,
        and ``sizes``, the height and width of each; or, with a feature cache, ``pictures``: a list of the cache fields
        of the examples, see :func:`engine.models.feature_cache.picture`.
    """
    if "key" in examples[0]:
        return {"pictures": pictures(examples)}
    largest = [max(e["pixel_values"].shape[axis] for e in examples) for axis in (1, 2)]
    height, width = canvas(*largest, places=places)
    pixel_values = torch.zeros(len(examples), 3, height, width)
    pixel_mask = torch.zeros(len(examples), height, width, dtype=torch.long)
    for example, image, mask in zip(examples, pixel_values, pixel_mask, strict=True):
        _, h, w = example["pixel_values"].shape
        image[:, :h, :w] = example["pixel_values"]
        mask[:h, :w] = 1
    sizes = [tuple(example["pixel_values"].shape[1:]) for example in examples]
    return {"pixel_values": pixel_values, "pixel_mask": pixel_mask, "sizes": sizes}


def encode(prompts: Sequence[Prompt], length: int) -> dict[str, Tensor]:
    """Return ``input_ids`` and ``attention_mask`` (prompts, length), padded with 0."""
    ids = torch.zeros(len(prompts), length, dtype=torch.long)
    mask = torch.zeros(len(prompts), length, dtype=torch.long)
    for row, real, prompt in zip(ids, mask, prompts, strict=True):
        row[: len(prompt.input_ids)] = torch.tensor(prompt.input_ids)
        real[: len(prompt.input_ids)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def _targets(example: Example, prompt: Prompt, length: int) -> Targets:
    """Return the objects and crowds whose class is in the caption, with their tokens (N, length)."""
    boxes, tokens = _asked(example["boxes"], example["class_indices"], prompt, length)
    return Targets(boxes, tokens, *_asked(example["crowd_boxes"], example["crowd_classes"], prompt, length))


def _asked(boxes: Tensor, class_indices: Tensor, prompt: Prompt, length: int) -> tuple[Tensor, Tensor]:
    """Return the boxes (of N, 4) whose class (of N,) is in the caption, with their tokens (K, length)."""
    row_of = {index: row for row, index in enumerate(prompt.class_indices)}
    asked = [i for i, index in enumerate(class_indices.tolist()) if index in row_of]
    rows = [row_of[int(class_indices[i])] for i in asked]
    spans = torch.from_numpy(prompt.token_map())[rows]
    tokens = torch.zeros(len(rows), length, dtype=torch.bool)
    tokens[:, : spans.shape[1]] = spans
    return boxes[asked].reshape(-1, 4), tokens

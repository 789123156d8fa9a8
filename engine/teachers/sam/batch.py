"""Batches of SAM: images and their prompts as tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from engine.models.base import Batch, Example
from engine.models.feature_cache import pictures


def collate(examples: Sequence[Example]) -> Batch:
    """Concatenate the P prompts of B images; images without prompts are left out, as they have no loss.

    Returns:
        The fields of :func:`collate_pictures`; ``images`` (P,) int64, the image of each prompt; all other fields
        as in :meth:`engine.teachers.sam.model.Sam.example`, (P, …).
    """
    prompted = [example for example in examples if len(example["boxes"])]
    counts = torch.tensor([len(example["boxes"]) for example in prompted], dtype=torch.long)
    batch = {
        name: torch.cat([example[name] for example in prompted or examples[:1]])
        for name in ("boxes", "points", "by_point", "masks")
    }
    batch |= collate_pictures(prompted)
    batch["images"] = torch.repeat_interleave(torch.arange(len(prompted)), counts)
    return batch


def collate_pictures(examples: Sequence[Example]) -> Batch:
    """Return ``pixel_values`` (B, 3, S, S) of B images, or, with a feature cache, ``pictures``: a list of the cache
    fields of the examples, see :func:`engine.models.feature_cache.picture`.
    """
    if not examples or "key" in examples[0]:
        return {"pictures": pictures(examples)}
    return {"pixel_values": torch.stack([example["pixel_values"] for example in examples])}

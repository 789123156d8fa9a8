"""The image encoder of SAM 2, and its three feature maps packed into one tensor.

The mask decoder reads the embedding (C, h, w) and two finer maps, (C / 4, 2h, 2w) and (C / 8, 4h, 4w). Cells of the
finer maps become channels of the embedding's cells, without loss: so code for the embedding of SAM selects, repeats and
caches all three at a time.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def encode(sam: Any, pixel_values: Tensor) -> Tensor:
    """Return packed embeddings (B, 4C, S / 16, S / 16) of images (B, 3, S, S), with C channels of the embedding."""
    finest, finer, coarse = sam.vision_encoder(pixel_values).fpn_hidden_states
    maps = (
        coarse + sam.no_memory_embedding.reshape(1, -1, 1, 1),  # as without memory of earlier frames
        F.pixel_unshuffle(sam.mask_decoder.conv_s1(finer), 2),
        F.pixel_unshuffle(sam.mask_decoder.conv_s0(finest), 4),
    )
    return torch.cat(maps, dim=1)


def unpacked(packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the embedding (P, C, h, w), and the maps (P, C / 8, 4h, 4w) and (P, C / 4, 2h, 2w)."""
    channels = packed.shape[1] // 4
    coarse, finer, finest = torch.split(packed, [channels, channels, 2 * channels], dim=1)
    return coarse, F.pixel_shuffle(finest, 4), F.pixel_shuffle(finer, 2)


def is_frozen(sam: Any) -> bool:
    """Return whether no weight is trained that :func:`encode` uses."""
    modules = (sam.vision_encoder, sam.mask_decoder.conv_s0, sam.mask_decoder.conv_s1)
    return not any(parameter.requires_grad for module in modules for parameter in module.parameters())

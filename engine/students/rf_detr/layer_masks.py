"""Masks of RF-DETR-Seg (arXiv:2511.09554): feature maps at a quarter of the input, times embeddings of queries.

The head is that of transformers, which computes the masks of all queries at all layers. Here they are computed where
the objective needs them. The proposals' masks use projected features, as in the authors' code; the library leaves the
projection out there, which changes training alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class LayerMasks:
    """Factors of the mask logits of the proposals and of L decoder layers.

    Attributes:
        features: L + 1 maps (B, C, h, w).
        embedded: (L + 1, B, Q, C), embeddings of queries.
        bias: (1,), added to all logits.
    """

    features: Sequence[Tensor]
    embedded: Tensor
    bias: Tensor

    @classmethod
    def of(cls, model: Any, outputs: Any, size: tuple[int, int]) -> Self:
        """Compute them from the outputs of the detector.

        Args:
            model: An ``RfDetrForInstanceSegmentation``.
            outputs: Outputs of its ``RfDetrModel``.
            size: Height and width of the input in pixels.
        """
        cells = tuple(side // model.downsample_ratio for side in size)
        maps = [F.interpolate(outputs.backbone_features, size=cells, mode="bilinear", align_corners=False)]
        for block in model.blocks:
            maps.append(block(maps[-1]))
        queries = torch.cat([outputs.enc_outputs_class[None], outputs.intermediate_hidden_states])
        return cls(
            features=[model.spatial_features_proj(one).float() for one in maps],
            embedded=model.query_features_proj(model.query_features_block(queries)).float(),
            bias=model.segmentation_bias.float(),
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        height, width = self.features[0].shape[-2:]
        return height, width

    def logits(self, layer: int, image: int, queries: Tensor) -> Tensor:
        """Return the masks (K, h, w) of the queries at indices (K,)."""
        found = self.embedded[layer, image, queries] @ self.features[layer][image].flatten(1)
        return (found + self.bias).reshape(-1, *self.grid)

    def logits_at(self, layer: int, image: int, points: Tensor) -> Tensor:
        """Return the logits (Q, P) of all queries at points (P, 2); see :func:`values_at`."""
        features = values_at(self.features[layer][image][None], points[None])[0]  # (C, P)
        return self.embedded[layer, image] @ features + self.bias


def values_at(maps: Tensor, points: Tensor) -> Tensor:
    """Return the values (N, C, P) of maps (N, C, h, w) at points (N, P, 2), interpolated bilinearly.

    Points are x and y as shares of the map. Beyond the outermost centres of cells the nearest value continues, as in
    the authors' code; the library mixes it with zeros there.
    """
    grid = 2 * points[:, :, None] - 1
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=False)[..., 0]


def cells_at(points: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the index row * columns + column of the cell of each point (..., 2), which are in 0..1."""
    rows, columns = grid
    column = (points[..., 0] * columns).long().clamp(max=columns - 1)
    row = (points[..., 1] * rows).long().clamp(max=rows - 1)
    return row * columns + column


def random_head(model: Any) -> None:
    """Give the mask head of a model random weights, as published; those of the library are far smaller."""
    heads: list[nn.Module] = [model.blocks, model.spatial_features_proj, model.query_features_block]
    for head in (*heads, model.query_features_proj):
        for module in head.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.reset_parameters()

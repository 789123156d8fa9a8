"""D-FINE with a mask for each box (D-FINE-seg, arXiv:2602.23043): features at a quarter of the input, times queries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DFineConfig, DFineForObjectDetection

from engine.errors import BaseModelError

HEAD = "mask_head."
"""Prefix of the weights that a D-FINE for boxes lacks."""


class MaskHead(nn.Module):
    """Fuses feature maps, the finest first, and multiplies them with an embedding of each query.

    Args:
        channels: Channels of the feature maps, of strides 8, 16 and so on.
        width: Channels of the queries and of the fused features.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        groups = math.gcd(32, width)
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(one, width, 1, bias=False), nn.GroupNorm(groups, width)) for one in channels
        )
        self.fuse, self.refine = (
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(groups, width), nn.ReLU())
            for _ in range(2)
        )
        self.embed = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        """Return (B, width, H/4, W/4) features of an input of H x W pixels."""
        fused: Tensor = self.laterals[0](maps[0])
        for lateral, coarser in zip(list(self.laterals)[1:], maps[1:], strict=True):
            fused = fused + _scaled(lateral(coarser), fused.shape[-2:])
        fused = self.fuse(fused)
        refined: Tensor = self.refine(_scaled(fused, (2 * fused.shape[-2], 2 * fused.shape[-1])))
        return refined

    def logits(self, queries: Tensor, features: Tensor) -> Tensor:
        """Return (..., Q, H/4, W/4) of queries (..., Q, width) on the features (width, H/4, W/4) of one image."""
        embedded = self.embed(queries) * queries.shape[-1] ** -0.5
        found: Tensor = (embedded @ features.flatten(1)).unflatten(-1, features.shape[1:])
        return found


def _scaled(features: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(features, size=tuple(size), mode="bilinear", align_corners=False)


class MaskedDFine(DFineForObjectDetection):  # type: ignore[misc] # untyped
    """D-FINE for boxes with a mask head; without the weights of the head its folder is one of D-FINE for boxes.

    Sizes without a feature map of stride 8 get it from the backbone.

    Raises:
        BaseModelError: The backbone has no such feature map.
    """

    def __init__(self, config: DFineConfig) -> None:
        super().__init__(config)
        settings: Any = config
        self.needs_finer = settings.feat_strides[0] == 16
        self.mask_head = self.mask_head_of(config)

    @staticmethod
    def mask_head_of(config: Any) -> MaskHead:
        """Return a mask head with random weights for a configuration."""
        backbone, strides = config.backbone_config, list(config.feat_strides)
        channels = [config.encoder_hidden_dim] * len(strides)
        if strides[0] == 16 and backbone.model_type == "hgnet_v2":
            channels = [backbone.stage_out_channels[1], *channels]
        elif strides[0] != 8:
            raise BaseModelError(
                f"masks need features of stride 8, and this D-FINE has strides {strides}: set masks to false, or use "
                "another size or base"
            )
        return MaskHead(channels, config.d_model)

    def run(self, pixel_values: Tensor, labels: Any = None) -> tuple[Any, Tensor]:
        """Return the outputs of the detector, and the features of masks."""
        finer: list[Tensor] = []
        stage: Any = self.model.backbone.model.encoder.stages[1] if self.needs_finer else nn.Identity()
        hook = stage.register_forward_hook(lambda module, inputs, output: finer.append(output))
        try:
            outputs = self.model(pixel_values, labels=labels)
        finally:
            hook.remove()
        return outputs, self.mask_head.features([*finer, *cast(Any, outputs).encoder_last_hidden_state])

    def forward(self, pixel_values: Tensor) -> Any:
        """Return ``logits`` (B, Q, C), ``pred_boxes`` (B, Q, 4) and ``pred_masks`` (B, Q, H/4, W/4)."""
        outputs, features = self.run(pixel_values)
        outputs.logits, outputs.pred_boxes = (
            outputs.intermediate_logits[:, -1],
            outputs.intermediate_reference_points[:, -1],
        )
        queries = outputs.last_hidden_state
        outputs.pred_masks = torch.stack(
            [self.mask_head.logits(one, image) for one, image in zip(queries, features, strict=True)]
        )
        return outputs

"""Sizes of RF-DETR, and with masks of RF-DETR-Seg, with random weights: nano to large as published, tiny for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import RfDetrConfig

from engine.students.detector_base import class_settings


@dataclass(frozen=True, kw_only=True)
class Size:
    """A size.

    Attributes:
        side: Height and width of the input in pixels.
        layers: Layers of the decoder.
        patch: Height and width of a patch in pixels.
        windows: Windows of the backbone along a side.
        queries: Queries of a group, the most objects of an image.
        backbone: Settings of the backbone.
        detector: Further settings.
    """

    side: int
    layers: int
    patch: int = 16
    windows: int = 2
    queries: int = 300
    backbone: Mapping[str, Any] = field(
        default_factory=lambda: {
            "hidden_size": 384,
            "num_hidden_layers": 12,
            "num_attention_heads": 6,
            "out_features": ["stage3", "stage6", "stage9", "stage12"],
        }
    )
    detector: Mapping[str, Any] = field(default_factory=dict)


_TINY = Size(
    side=256,
    layers=2,
    queries=60,
    backbone={
        "hidden_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "out_features": ["stage2", "stage4"],
    },
    detector={
        "d_model": 64,
        "decoder_ffn_dim": 128,
        "intermediate_size": 256,
        "decoder_self_attention_heads": 4,
        "decoder_cross_attention_heads": 4,
        "group_detr": 4,
    },
)

_BOXES: Mapping[str, Size] = {
    "tiny": _TINY,
    "nano": Size(side=384, layers=2),
    "small": Size(side=512, layers=3),
    "medium": Size(side=576, layers=4),
    "large": Size(side=704, layers=4),
}
_MASKS: Mapping[str, Size] = {
    "tiny": _TINY,
    "nano": Size(side=312, layers=4, patch=12, windows=1, queries=100),
    "small": Size(side=384, layers=4, patch=12, queries=100),
    "medium": Size(side=432, layers=5, patch=12, queries=200),
    "large": Size(side=504, layers=5, patch=12, queries=200),
}


def sizes_of(*, masks: bool) -> Mapping[str, Size]:
    """Return the sizes by name, the smallest first."""
    return _MASKS if masks else _BOXES


def random_config(size: Size, classes: Sequence[str]) -> RfDetrConfig:
    """Return the configuration of a size with random weights."""
    backbone = {
        "model_type": "rf_detr_dinov2",
        "patch_size": size.patch,
        "num_windows": size.windows,
        "image_size": size.side,
        **size.backbone,
    }
    own = {
        "decoder_layers": size.layers,
        "num_queries": size.queries,
        "decoder_n_points": 2,
        "dropout": 0.0,
        **size.detector,
    }
    return RfDetrConfig(backbone_config=backbone, **own, **class_settings(classes))

"""Sizes of RF-DETR with random weights: nano to large as published, tiny for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import RfDetrConfig

from engine.students.detector_base import class_settings

SIDES: Mapping[str, int] = {"tiny": 256, "nano": 384, "small": 512, "medium": 576, "large": 704}
"""Height and width in pixels that each size expects."""

_LAYERS: Mapping[str, int] = {"tiny": 2, "nano": 2, "small": 3, "medium": 4, "large": 4}
"""Layers of the decoder."""

_DINOV2_SMALL: Mapping[str, Any] = {
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "out_features": ["stage3", "stage6", "stage9", "stage12"],
}
_TINY: Mapping[str, Any] = {
    "hidden_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "out_features": ["stage2", "stage4"],
}
_TINY_DETECTOR: Mapping[str, Any] = {
    "d_model": 64,
    "decoder_ffn_dim": 128,
    "decoder_self_attention_heads": 4,
    "decoder_cross_attention_heads": 4,
    "num_queries": 60,
    "group_detr": 4,
}


def random_config(size: str, classes: Sequence[str]) -> RfDetrConfig:
    """Return the configuration of a size with random weights.

    Args:
        size: A key of :data:`SIDES`.
        classes: Class names.
    """
    tiny = size == "tiny"
    backbone = {
        "model_type": "rf_detr_dinov2",
        "patch_size": 16,
        "num_windows": 2,
        "image_size": SIDES[size],
        **(_TINY if tiny else _DINOV2_SMALL),
    }
    own = {"decoder_layers": _LAYERS[size], "decoder_n_points": 2, "dropout": 0.0, **(_TINY_DETECTOR if tiny else {})}
    return RfDetrConfig(backbone_config=backbone, **own, **class_settings(classes))

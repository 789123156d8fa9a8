"""Sizes of D-FINE with random weights: nano to large as published, femto and pico for tests and small boards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import DFineConfig

from engine.students import detector_base

IMAGE_SIZES: Mapping[str, tuple[int, int]] = {
    "femto": (256, 320),
    "pico": (256, 320),
    "nano": (640, 640),
    "small": (640, 640),
    "medium": (640, 640),
    "large": (640, 640),
}
"""Height and width in pixels that each size expects."""


def _backbone(
    stem: Sequence[int],
    middle: Sequence[int],
    out: Sequence[int],
    blocks: Sequence[int],
    layers: int,
    *,
    levels: int = 3,
    affine: bool = True,
) -> dict[str, Any]:
    """Return the settings of an HGNetV2 (arXiv:2304.08069, section 4).

    Args:
        stem: Channels of the stem.
        middle: Channels inside each stage.
        out: Channels of each stage.
        blocks: Blocks of each stage.
        layers: Convolutions of a block.
        levels: Number of last stages that are read.
        affine: Learn a scale and a shift after each activation.
    """
    return {
        "model_type": "hgnet_v2",
        "stem_channels": [3, *stem],
        "stage_in_channels": [stem[1], *out[:-1]],
        "stage_mid_channels": list(middle),
        "stage_out_channels": list(out),
        "hidden_sizes": list(out),
        "stage_num_blocks": list(blocks),
        "depths": list(blocks),
        "stage_numb_of_layers": [layers] * 4,
        "stage_light_block": [False, False, True, True],
        "stage_kernel_size": [3, 3, 5, 5],
        "use_learnable_affine_block": affine,
        "out_indices": [1, 2, 3, 4][-levels:],
    }


_B0 = ((16, 16), (16, 32, 64, 128), (64, 256, 512, 1024), (1, 1, 2, 1), 3)
_BACKBONES: Mapping[str, dict[str, Any]] = {
    "femto": _backbone((8, 8), (8, 8, 16, 32), (16, 32, 64, 128), (1, 1, 1, 1), 2),
    "pico": _backbone((8, 16), (16, 16, 32, 64), (32, 64, 128, 256), (1, 1, 1, 1), 2),
    "nano": _backbone(*_B0, levels=2),
    "small": _backbone(*_B0),
    "medium": _backbone((24, 32), (32, 64, 128, 256), (96, 384, 768, 1536), (1, 1, 3, 1), 4),
    "large": _backbone((32, 48), (48, 96, 192, 384), (128, 512, 1024, 2048), (1, 1, 3, 1), 6, affine=False),
}

_TINY: Mapping[str, Any] = {"num_queries": 60, "decoder_attention_heads": 4, "encoder_attention_heads": 4}
_THREE = [3, 6, 3]
_DETECTORS: Mapping[str, dict[str, Any]] = {
    "femto": {"d_model": 64, "decoder_layers": 2, "decoder_ffn_dim": 128, "hidden_expansion": 0.34, **_TINY},
    "pico": {"d_model": 96, "decoder_layers": 3, "decoder_ffn_dim": 256, "hidden_expansion": 0.5, **_TINY},
    "nano": {"d_model": 128, "decoder_layers": 3, "decoder_ffn_dim": 512, "hidden_expansion": 0.34, "depth_mult": 0.5}
    | {"decoder_n_points": [6, 6]},
    "small": {"decoder_layers": 3, "hidden_expansion": 0.5, "decoder_n_points": _THREE},
    "medium": {"decoder_layers": 4, "depth_mult": 0.67, "decoder_n_points": _THREE},
    "large": {"depth_mult": 1.0, "decoder_n_points": _THREE},
}


def random_config(size: str, classes: Sequence[str], *, denoising: int) -> DFineConfig:
    """Return the configuration of a size with random weights, whose batch normalization is trained.

    Args:
        size: A key of :data:`IMAGE_SIZES`.
        classes: Class names.
        denoising: Denoising queries in training.
    """
    backbone, own = _BACKBONES[size], _DETECTORS[size]
    levels, width = len(backbone["out_indices"]), own.get("d_model", 256)
    return DFineConfig(
        **{
            "depth_mult": 0.34,
            "encoder_ffn_dim": own.get("decoder_ffn_dim", 1024),
            **own,
            "backbone_config": backbone,
            "encoder_hidden_dim": width,
            "encoder_in_channels": backbone["stage_out_channels"][-levels:],
            "decoder_in_channels": [width] * levels,
            "feat_strides": [8, 16, 32][-levels:],
            "num_feature_levels": levels,
            "encode_proj_layers": [levels - 1],
            "freeze_backbone_batch_norms": False,
            "initializer_bias_prior_prob": 0.01,
            **class_settings(classes, denoising=denoising),
        }
    )


def class_settings(classes: Sequence[str], *, denoising: int) -> dict[str, Any]:
    """Return the settings of a configuration that follow from the classes and the training."""
    return {**detector_base.class_settings(classes), "num_denoising": denoising}

"""LoRA presets of SAM: patterns of the names of adapted layers."""

from __future__ import annotations

from engine.spec import LoraPreset

IOU_HEAD = r"mask_decoder\.iou_prediction_head\.(proj_in|layers\.\d+|proj_out)"
_DECODER = rf"mask_decoder\.transformer\.(\w+\.)*(q|k|v|out)_proj|{IOU_HEAD}"
ENCODER_LAYER = r"vision_encoder\.layers\.\d+\."
_ENCODER = rf"{ENCODER_LAYER}attn\.qkv"
_REST = rf"{ENCODER_LAYER}(attn\.proj|mlp\.lin[12])|mask_decoder\.transformer\.layers\.\d+\.mlp\.lin[12]"
PRESETS = {
    LoraPreset.DECODER: _DECODER,
    LoraPreset.ENCODER_DECODER: rf"{_DECODER}|{_ENCODER}",
    LoraPreset.ALL: rf"{_DECODER}|{_ENCODER}|{_REST}",
}
"""Attention of the mask decoder and its IoU head; then also attention of the image encoder; then also all other
transformer layers.

The prompt encoder stays frozen: its only matrix is the positional encoding, which is tied to that of the image.
"""

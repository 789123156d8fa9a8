"""Presets of SAM: patterns of the names of adapted modules."""

from __future__ import annotations

from engine.models.base import LoraTargets
from engine.spec import LoraPreset

_MLP = r"(proj_in|layers\.\d+|proj_out)"
_LAYER = r"vision_encoder\.layers\.\d+\."
_DECODER_ATTENTION = r"mask_decoder\.transformer\.(\w+\.)*(q|k|v|out)_proj"
_IOU_HEAD = rf"mask_decoder\.iou_prediction_head\.{_MLP}"
_ENCODER_ATTENTION = rf"{_LAYER}attn\.qkv"
_OTHER_LAYERS = rf"{_LAYER}(attn\.proj|mlp\.lin[12])|mask_decoder\.transformer\.layers\.\d+\.mlp\.lin[12]"
_HYPERNETWORKS = rf"mask_decoder\.output_hypernetworks_mlps\.\d+\.{_MLP}"
_NECK = r"vision_encoder\.neck\.conv[12]"

_TRANSFORMERS = {
    LoraPreset.DECODER: rf"{_DECODER_ATTENTION}|{_IOU_HEAD}",
    LoraPreset.ENCODER_DECODER: rf"{_DECODER_ATTENTION}|{_IOU_HEAD}|{_ENCODER_ATTENTION}",
    LoraPreset.ALL: rf"{_DECODER_ATTENTION}|{_IOU_HEAD}|{_ENCODER_ATTENTION}|{_OTHER_LAYERS}",
}
"""What adapters of earlier versions adapt."""

LORA = {
    preset: rf"{pattern}|{_HYPERNETWORKS}" + ("" if preset is LoraPreset.DECODER else rf"|{_NECK}")
    for preset, pattern in _TRANSFORMERS.items()
}
"""Layers with LoRA matrices: attention of the mask decoder, its IoU head and the networks that make a mask of a token;
then also attention and neck of the image encoder; then also all other layers of both transformers.

The prompt encoder stays frozen: its only matrix is the positional encoding, which is tied to that of the image.
"""

_DECODER_PARTS = (
    r"mask_decoder\.(upscale_conv[12]|upscale_layer_norm|mask_tokens|iou_token|transformer\.(\w+\.)*layer_norm\w+)"
)
TRAINED = {
    preset: _DECODER_PARTS
    + ("" if preset is LoraPreset.DECODER else rf"|{_LAYER}layer_norm[12]|vision_encoder\.neck\.layer_norm[12]")
    for preset in LORA
}
"""Small modules that are trained completely: output tokens, transposed convolutions and layer norms."""


def preset_targets(preset: LoraPreset, layers: str) -> LoraTargets:
    """Return the modules of a preset.

    Args:
        preset: Name of the preset.
        layers: Regular expression of the numbers of the adapted layers of the image encoder.
    """

    def chosen(pattern: str) -> str:
        return pattern.replace(_LAYER, rf"vision_encoder\.layers\.{layers}\.")

    earlier = _TRANSFORMERS[preset]
    return LoraTargets(
        target_modules=chosen(LORA[preset]),
        trained_modules=chosen(TRAINED[preset]),
        earlier=(chosen(earlier), chosen(earlier.replace(f"|{_IOU_HEAD}", ""))),
    )

"""LoRA presets of Grounding DINO: patterns of the names of adapted layers."""

from __future__ import annotations

from engine.spec import LoraPreset

_LINEAR = r"(query|key|value|\w+_proj|sampling_offsets|attention_weights|fc[12])"
_DECODER = rf"model\.decoder\.layers\.\d+\.(\w+\.)*{_LINEAR}"
ENCODER_LAYER = r"model\.encoder\.layers\.\d+\."
_ENCODER = rf"{ENCODER_LAYER}(\w+\.)*{_LINEAR}|model\.enc_output"
_BACKBONE = rf"model\.backbone\..+\.((attention|mlp)\.{_LINEAR}|pwconv[12])|model\.text_projection"
PRESETS = {
    LoraPreset.DECODER: _DECODER,
    LoraPreset.ENCODER_DECODER: rf"{_DECODER}|{_ENCODER}",
    LoraPreset.ALL: rf"{_DECODER}|{_ENCODER}|{_BACKBONE}",
}
"""Attention and feed-forward layers; those of ConvNeXt are ``pwconv``. Box heads stay frozen: those of the decoder are
one tensor under many names, which LoRA would silently untie (a merged adapter would differ from the applied one). BERT
stays frozen too."""

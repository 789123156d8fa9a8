"""Presets of SAM: patterns of the names of adapted modules."""

from __future__ import annotations

from dataclasses import dataclass

from engine.models.base import LoraTargets
from engine.spec import LoraPreset


@dataclass(frozen=True, kw_only=True)
class ModuleNames:
    """Names of modules in which SAM and its relatives differ, as regular expressions.

    Attributes:
        layers: Transformer layers of the image encoder, whose names end with their number.
        other_encoder_layers: Linear layers in one of them besides ``attn.qkv``.
        out: Last projection of the decoder's attention, before ``_proj``.
        decoder_mlp: Linear layers of the decoder's MLPs.
        neck: Layers of the image encoder's neck with LoRA matrices.
        trained_neck: Other modules after the image encoder's layers, which are trained completely.
    """

    layers: str
    other_encoder_layers: str
    out: str
    decoder_mlp: str
    neck: str
    trained_neck: str


SAM_NAMES = ModuleNames(
    layers=r"vision_encoder\.layers",
    other_encoder_layers=r"attn\.proj|mlp\.lin[12]",
    out="out",
    decoder_mlp=r"lin[12]",
    neck=r"conv[12]",
    trained_neck=r"vision_encoder\.neck\.layer_norm[12]",
)

_MLP = r"(proj_in|layers\.\d+|proj_out)"
_IOU_HEAD = rf"mask_decoder\.iou_prediction_head\.{_MLP}"
_HYPERNETWORKS = rf"mask_decoder\.output_hypernetworks_mlps\.\d+\.{_MLP}"
_DECODER_PARTS = (
    r"mask_decoder\.(upscale_conv[12]|upscale_layer_norm|mask_tokens|iou_token|transformer\.(\w+\.)*layer_norm\w+)"
)


def preset_targets(preset: LoraPreset, layers: str, names: ModuleNames = SAM_NAMES) -> LoraTargets:
    """Return the modules of a preset.

    LoRA matrices get: attention of the mask decoder, its IoU head and the networks that make a mask of a token; then
    also attention and neck of the image encoder; then also all other layers of both transformers. Small modules are
    trained completely: output tokens, transposed convolutions and layer norms.

    The prompt encoder stays frozen: its only matrix is the positional encoding, which is tied to that of the image.

    Args:
        preset: Name of the preset.
        layers: Regular expression of the numbers of the adapted layers of the image encoder.
        names: Names of the model's modules.
    """
    layer = rf"{names.layers}\.{layers}\."
    earlier = _transformers(preset, layer, names)
    target_modules, trained_modules = rf"{earlier}|{_HYPERNETWORKS}", _DECODER_PARTS
    if preset is not LoraPreset.DECODER:
        target_modules += rf"|vision_encoder\.neck\.{names.neck}"
        trained_modules += rf"|{layer}layer_norm[12]|{names.trained_neck}"
    return LoraTargets(
        target_modules=target_modules,
        trained_modules=trained_modules,
        earlier=(earlier, earlier.replace(f"|{_IOU_HEAD}", "")),
    )


def _transformers(preset: LoraPreset, layer: str, names: ModuleNames) -> str:
    """Return the pattern of the layers in both transformers and of the IoU head: those of adapters so far."""
    pattern = rf"mask_decoder\.transformer\.(\w+\.)*(q|k|v|{names.out})_proj|{_IOU_HEAD}"
    if preset is not LoraPreset.DECODER:
        pattern += rf"|{layer}attn\.qkv"
    if preset is LoraPreset.ALL:
        pattern += (
            rf"|{layer}({names.other_encoder_layers})|mask_decoder\.transformer\.layers\.\d+\.mlp\.{names.decoder_mlp}"
        )
    return pattern

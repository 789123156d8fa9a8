"""Convert segment-anything checkpoints (``sam_vit_b_01ec64.pth`` …) to transformers' SamModel and back.

    convert_original(Path("sam_vit_b.pth"), Path("sam-vit-base"))    # a folder that Sam.load takes
    export_original(merged(teacher), Path("tuned.pth"))              # for sam_model_registry["vit_b"](checkpoint=…)

Both contain the same tensors under different names; sizes follow from the shapes, so that any SAM can be converted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from transformers import SamConfig, SamImageProcessor, SamModel

from engine.errors import BaseModelError

DECODER_HEADS = 8
"""Attention heads of every published SAM's mask decoder; they cannot be derived from tensor shapes."""

DOWNSAMPLE_RATE = 2
"""Ratio of the widths of decoder and cross-attention in every published SAM."""

REGISTRY = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
"""Names of the published sizes in ``sam_model_registry``, by the width of the image encoder."""

_NETWORK = r"(mask_decoder\.(?:iou_prediction_head|output_hypernetworks_mlps\.\d+))\."
_RENAMED = (
    # transformers' names to segment-anything's, in this order
    (r"^(shared_image_embedding|prompt_encoder\.shared_embedding)\.positional_embedding$",
     "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    (r"^prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
    (r"^prompt_encoder\.mask_embed\.conv1\.", "prompt_encoder.mask_downscaling.0."),
    (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "prompt_encoder.mask_downscaling.1."),
    (r"^prompt_encoder\.mask_embed\.conv2\.", "prompt_encoder.mask_downscaling.3."),
    (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "prompt_encoder.mask_downscaling.4."),
    (r"^prompt_encoder\.mask_embed\.conv3\.", "prompt_encoder.mask_downscaling.6."),
    (r"^vision_encoder\.neck\.conv1\.", "image_encoder.neck.0."),
    (r"^vision_encoder\.neck\.layer_norm1\.", "image_encoder.neck.1."),
    (r"^vision_encoder\.neck\.conv2\.", "image_encoder.neck.2."),
    (r"^vision_encoder\.neck\.layer_norm2\.", "image_encoder.neck.3."),
    (r"^vision_encoder\.patch_embed\.projection\.", "image_encoder.patch_embed.proj."),
    (r"^vision_encoder\.layers\.", "image_encoder.blocks."),
    (r"^vision_encoder\.", "image_encoder."),
    (r"^mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
    (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
    (r"^mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
    (r"\.layer_norm(\d|_final_attn)\.", r".norm\1."),
)  # fmt: skip


def convert_original(path: Path, folder: Path) -> None:
    """Write a segment-anything checkpoint as a transformers folder.

    Args:
        path: The ``.pth`` file; only tensors are read from it, never code.
        folder: Output folder for ``config.json``, ``model.safetensors`` and ``preprocessor_config.json``.

    Raises:
        BaseModelError: The file is missing, contains more than tensors, or they are not those of a SAM.
    """
    tensors = _read(path)
    try:
        config = _config(tensors)
        model = SamModel(config)
        names = original_names(model)
        if unknown := sorted(tensors.keys() - names.values()):
            raise KeyError(f"it has {unknown[0]}, which no SAM of its sizes has")
        model.load_state_dict({name: tensors[original] for name, original in names.items()})
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        raise BaseModelError(f"{path} does not hold the weights of a SAM by segment-anything: {error}") from error
    size = config.vision_config.image_size
    model.save_pretrained(folder)
    SamImageProcessor(size={"longest_edge": size}, pad_size={"height": size, "width": size}).save_pretrained(folder)


def export_original(model: Any, path: Path) -> None:
    """Write a SamModel with merged adapter as a checkpoint for ``segment_anything.sam_model_registry``.

    The format is that of ``torch.save``, the only one that the registry reads; the file contains only tensors.
    """
    tensors = model.state_dict()
    decoder = model.config.mask_decoder_config
    heads, width = decoder.num_attention_heads, decoder.hidden_size // _exported_rate(decoder)
    content = {}
    for name, original in original_names(model).items():
        content[original] = _widened(name, tensors[name].cpu(), heads=heads, width=width)
    torch.save(content, path)


def _exported_rate(decoder: Any) -> int:
    """Return the ratio of the widths of decoder and cross-attention in an export.

    segment_anything has one rate for all layers; transformers has 2 in the layers and the configured rate in the last
    attention. So the narrower ones are widened to the other width. All are widened to that of the decoder if it has
    another number of heads than the published one: an import could not tell, and refuses this rate.
    """
    if decoder.num_attention_heads != DECODER_HEADS:
        return 1
    return min(DOWNSAMPLE_RATE, int(decoder.attention_downsample_rate))


def _widened(name: str, tensor: Tensor, *, heads: int, width: int) -> Tensor:
    """Widen a tensor of cross-attention to ``width`` channels by zeros in each head: results do not change.

    Attention divides by the square root of a head's channels, so queries are multiplied by the root of the factor.
    """
    match = re.search(r"\.(?:cross_attn_\w+|final_attn_token_to_image)\.([qkv]|out)_proj\.(weight|bias)$", name)
    if match is None or match.groups() == ("out", "bias"):
        return tensor
    is_out = match[1] == "out"
    rows = tensor.T if is_out else tensor
    factor = width // len(rows)
    if factor == 1:
        return tensor
    wide = rows.new_zeros(heads, width // heads, *rows.shape[1:])
    wide[:, : len(rows) // heads] = rows.reshape(heads, -1, *rows.shape[1:]) * (factor**0.5 if match[1] == "q" else 1)
    wide = wide.flatten(0, 1)
    return (wide.T if is_out else wide).contiguous()


def loading_code(config: SamConfig, path: Path) -> str:
    """Return Python code that loads an exported checkpoint as ``sam`` with only segment_anything.

    Args:
        config: Configuration of the exported model. Sizes that ``sam_model_registry`` lacks are built from modules.
        path: Path of the checkpoint.
    """
    vision, decoder = config.vision_config, config.mask_decoder_config
    named = REGISTRY.get(vision.hidden_size)
    published = (1024, 16, 8, DOWNSAMPLE_RATE)
    sizes = (
        vision.image_size,
        vision.patch_size,
        decoder.num_attention_heads,
        _exported_rate(decoder),
    )
    if named is not None and sizes == published:
        return (
            f"from segment_anything import sam_model_registry\n\nsam = sam_model_registry[{named!r}]({str(path)!r})\n"
        )
    return _BUILT.format(
        v=vision,
        d=decoder,
        ratio=vision.mlp_dim / vision.hidden_size,
        channels=config.prompt_encoder_config.mask_input_channels,
        grid=vision.image_size // vision.patch_size,
        indexes=tuple(vision.global_attn_indexes),
        rate=_exported_rate(decoder),
        path=str(path),
    )


_BUILT = """\
from functools import partial

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

sam = Sam(
    ImageEncoderViT(
        img_size={v.image_size}, patch_size={v.patch_size}, embed_dim={v.hidden_size}, depth={v.num_hidden_layers},
        num_heads={v.num_attention_heads}, mlp_ratio={ratio}, out_chans={v.output_channels}, qkv_bias={v.qkv_bias},
        norm_layer=partial(torch.nn.LayerNorm, eps={v.layer_norm_eps}), use_rel_pos={v.use_rel_pos},
        window_size={v.window_size}, global_attn_indexes={indexes},
    ),
    PromptEncoder(
        embed_dim={d.hidden_size}, image_embedding_size=({grid}, {grid}),
        input_image_size=({v.image_size}, {v.image_size}), mask_in_chans={channels},
    ),
    MaskDecoder(
        transformer_dim={d.hidden_size}, num_multimask_outputs={d.num_multimask_outputs},
        iou_head_depth={d.iou_head_depth}, iou_head_hidden_dim={d.iou_head_hidden_dim},
        transformer=TwoWayTransformer(
            depth={d.num_hidden_layers}, embedding_dim={d.hidden_size}, num_heads={d.num_attention_heads},
            mlp_dim={d.mlp_dim}, attention_downsample_rate={rate},
        ),
    ),
).eval()
sam.load_state_dict(torch.load({path!r}, weights_only=True))
"""
"""Code that builds the model from segment_anything's modules."""


def original_names(model: Any) -> dict[str, str]:
    """Return segment-anything's name of each tensor of a SamModel; the two tied positional encodings share one name."""
    depth = model.config.mask_decoder_config.iou_head_depth
    return {name: _original_name(name, iou_head_depth=depth) for name in model.state_dict()}


def _original_name(name: str, *, iou_head_depth: int) -> str:
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    # segment-anything numbers all layers of small networks; in transformers the first and last have names, 0 is second.
    if match := re.match(_NETWORK + r"(proj_in|proj_out|layers\.(\d+))\.(.+)", name):
        network, layer, number, rest = match.groups()
        last = iou_head_depth - 1 if network.endswith("iou_prediction_head") else 2
        index = {"proj_in": 0, "proj_out": last}.get(layer, int(number or 0) + 1)
        return f"{network}.layers.{index}.{rest}"
    return name


def _read(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise BaseModelError(f"there is no file {path}") from None
    except (UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise BaseModelError(
            f"{path} is not a file of tensors alone: it is damaged, or holds code, which is never run; "
            "write it by torch.save(model.state_dict(), path)"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise BaseModelError(f"{path} holds no mapping of names to tensors, as segment-anything writes it")
    return content


def _config(tensors: Mapping[str, Tensor]) -> SamConfig:
    """Derive the configuration from tensor shapes.

    Raises:
        KeyError: A tensor that every SAM has is missing.
    """

    def shape(name: str) -> torch.Size:
        return tensors[name].shape

    def count(pattern: str) -> int:
        return 1 + max((int(match[1]) for name in tensors if (match := re.match(pattern, name))), default=-1)

    hidden, _, patch, _ = shape("image_encoder.patch_embed.proj.weight")
    grid = shape("image_encoder.pos_embed")[1]
    depth = count(r"image_encoder\.blocks\.(\d+)\.")
    # A relative position encoding has 2 s - 1 rows for windows of s patches.
    reach = [(shape(f"image_encoder.blocks.{i}.attn.rel_pos_h")[0] + 1) // 2 for i in range(depth)]
    windows = [size for size in reach if size != grid]
    width = shape("mask_decoder.iou_token.weight")[1]
    rate = width // shape("mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight")[0]
    if rate != DOWNSAMPLE_RATE:
        raise ValueError(
            "its mask decoder is not the published one, so its number of attention heads is unknown: give the folder "
            "for transformers that it was exported from"
        )
    image = {"image_size": grid * patch, "patch_size": patch}
    return SamConfig(
        vision_config={
            **image,
            "hidden_size": hidden,
            "output_channels": shape("image_encoder.neck.0.weight")[0],
            "num_hidden_layers": depth,
            "num_attention_heads": hidden // shape("image_encoder.blocks.0.attn.rel_pos_h")[1],
            "qkv_bias": "image_encoder.blocks.0.attn.qkv.bias" in tensors,
            "mlp_dim": shape("image_encoder.blocks.0.mlp.lin1.weight")[0],
            "window_size": windows[0] if windows else 0,
            "global_attn_indexes": [i for i, size in enumerate(reach) if size == grid],
            "num_pos_feats": shape("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix")[1],
        },
        prompt_encoder_config={
            **image,
            "hidden_size": width,
            "mask_input_channels": shape("prompt_encoder.mask_downscaling.3.weight")[0],
        },
        mask_decoder_config={
            "hidden_size": width,
            "mlp_dim": shape("mask_decoder.transformer.layers.0.mlp.lin1.weight")[0],
            "num_hidden_layers": count(r"mask_decoder\.transformer\.layers\.(\d+)\."),
            "num_attention_heads": DECODER_HEADS,
            "attention_downsample_rate": rate,
            "num_multimask_outputs": shape("mask_decoder.mask_tokens.weight")[0] - 1,
            "iou_head_depth": count(r"mask_decoder\.iou_prediction_head\.layers\.(\d+)\."),
            "iou_head_hidden_dim": shape("mask_decoder.iou_prediction_head.layers.0.weight")[0],
            "layer_norm_eps": 1e-5,  # torch's default, which segment-anything leaves; the library has 1e-6
        },
    )

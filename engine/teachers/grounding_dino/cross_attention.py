"""Faster attention between image and text in the encoder of Grounding DINO."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from engine.models.fast import replace_forward
from engine.models.fast.cross_attention import apart, compared, gathered, handed_out
from engine.models.fast.lora_linear import can_be_folded


def reorder_cross_attention(model: nn.Module) -> None:
    """Reorder the attention between image and text, in place; see :mod:`engine.models.fast.cross_attention`.

    The original order is used with too many tokens for it to be faster, or if a LoRA update has dropout.
    """
    replace_forward(
        model, _fuse, where=lambda module: type(module).__name__.endswith("GroundingDinoBiMultiHeadAttention")
    )


def _fuse(
    layer: Any,
    as_written: Any,
    vision_features: Tensor,
    text_features: Tensor,
    vision_attention_mask: Tensor | None = None,
    text_attention_mask: Tensor | None = None,
) -> Any:
    """See ``GroundingDinoBiMultiHeadAttention.forward``: masks are (B, P) and (B, T), True where padded."""
    folded = (layer.vision_proj, layer.values_vision_proj, layer.out_vision_proj)
    few = layer.num_heads * text_features.shape[1] < layer.embed_dim
    if not few or (layer.training and layer.dropout > 0) or not all(map(can_be_folded, folded)):
        return as_written(vision_features, text_features, vision_attention_mask, text_attention_mask)
    keys = apart(layer.text_proj(text_features), layer.num_heads) * layer.scale
    scores = compared(keys, vision_features, layer.vision_proj)
    at_places, at_tokens = scores, scores
    if vision_attention_mask is not None:
        at_places = scores.masked_fill(vision_attention_mask[:, None, None], float("-inf"))
    if text_attention_mask is not None:
        at_tokens = scores.masked_fill(text_attention_mask[:, None, :, None], float("-inf"))
    of_places, of_tokens = at_places.softmax(-1), at_tokens.softmax(-2)
    values = apart(layer.values_text_proj(text_features), layer.num_heads)
    vision = handed_out(of_tokens, values, layer.out_vision_proj)
    text = layer.out_text_proj(gathered(of_places, vision_features, layer.values_vision_proj))
    return (vision, of_tokens.transpose(2, 3)), (text, of_places)

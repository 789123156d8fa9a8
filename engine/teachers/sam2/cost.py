"""Cost of the steps of SAM 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from engine.teachers.sam.cost import SamCost


class Sam2Cost(SamCost):
    """Cost by images and prompts, as for SAM."""

    bases: ClassVar[Mapping[str, str]] = {
        f"facebook/sam{version}-hiera-{size}": f"sam2.1-hiera-{size}"
        for version in ("2", "2.1")
        for size in ("tiny", "small", "base-plus", "large")
    }

    def dimensions(self, config: Mapping[str, Any]) -> list[Any] | None:
        """See :meth:`CostTraits.dimensions`; the last one is the width of the decoder."""
        if config.get("model_type") not in ("sam2", "sam2_video"):
            return None
        vision, decoder = config.get("vision_config") or {}, config.get("mask_decoder_config") or {}
        hiera, prompts = vision.get("backbone_config") or {}, config.get("prompt_encoder_config") or {}
        wanted = {
            "blocks_per_stage": [1, 2, 7, 2],
            "embed_dim_per_stage": [96, 192, 384, 768],
            "num_attention_heads_per_stage": [1, 2, 4, 8],
            "window_size_per_stage": [8, 4, 14, 7],
            "global_attention_blocks": [5, 7, 9],
        }
        sizes = [hiera.get(key) or default for key, default in wanted.items()]
        return ["sam2", *sizes, prompts.get("image_size", 1024), decoder.get("hidden_size", 256)]

    def encoder_layers(self, dimensions: Sequence[Any]) -> int:
        """See :meth:`CostTraits.encoder_layers`: the blocks of all stages."""
        return sum(dimensions[1])

"""Cost of the steps of SAM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from engine.estimate.cost_traits import CostTraits, Ladder
from engine.spec import LoraPreset


class SamCost(CostTraits):
    """Cost by images and prompts: every image is scaled to one size."""

    ladder: ClassVar[Ladder] = {
        LoraPreset.DECODER: ((), ("decoder",)),
        LoraPreset.ENCODER_DECODER: ((), ("encoder", "decoder")),
        LoraPreset.ALL: ((), ("encoder", "decoder")),
    }
    bases: ClassVar[Mapping[str, str]] = {
        "facebook/sam-vit-base": "sam-vit-base",
        "facebook/sam-vit-large": "sam-vit-large",
        "facebook/sam-vit-huge": "sam-vit-huge",
    }

    def dimensions(self, config: Mapping[str, Any]) -> list[Any] | None:
        """See :meth:`CostTraits.dimensions`; the last one is the width of the decoder."""
        if config.get("model_type") != "sam":
            return None
        vision, decoder = config.get("vision_config") or {}, config.get("mask_decoder_config") or {}
        wanted = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 1024}
        wanted |= {"patch_size": 16, "window_size": 14}
        return ["sam", *(vision.get(key, default) for key, default in wanted.items()), decoder.get("hidden_size", 256)]

    def encoder_layers(self, dimensions: Sequence[Any]) -> int:
        """See :meth:`CostTraits.encoder_layers`: those of the image encoder."""
        return int(dimensions[2])

    def features(
        self, *, images: int, positions: int, queries: int, tokens: int, objects: int, rank: int
    ) -> tuple[float, ...]:
        """See :meth:`CostTraits.features`."""
        return (1.0, rank, images, images * objects)

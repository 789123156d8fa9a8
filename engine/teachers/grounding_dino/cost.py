"""Cost of the steps of Grounding DINO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from engine.estimate.cost_traits import CostTraits, Ladder
from engine.spec import LoraPreset


class GroundingDinoCost(CostTraits):
    """Cost by positions of the feature maps, queries and tokens.

    The decoder is not recomputed: its activations are freed before the encoder is, which needs more memory.
    """

    ladder: ClassVar[Ladder] = {
        LoraPreset.DECODER: ((),),
        LoraPreset.ENCODER_DECODER: ((), ("encoder",)),
        LoraPreset.ALL: ((), ("backbone", "encoder")),
    }
    bases: ClassVar[Mapping[str, str]] = {
        "IDEA-Research/grounding-dino-tiny": "grounding-dino-tiny",
        "IDEA-Research/grounding-dino-base": "grounding-dino-base",
    }
    model_type: ClassVar[str] = "grounding-dino"

    def dimensions(self, config: Mapping[str, Any]) -> list[Any] | None:
        """See :meth:`CostTraits.dimensions`."""
        if config.get("model_type") != self.model_type:
            return None
        backbone, text = config.get("backbone_config") or {}, config.get("text_config") or {}
        wanted = {"d_model": 256, "encoder_layers": 6, "decoder_layers": 6, "encoder_ffn_dim": 2048, "num_queries": 900}
        return [
            backbone.get("model_type", "swin"),
            backbone.get("hidden_sizes", backbone.get("embed_dim", 96)),
            list(backbone.get("depths", [2, 2, 6, 2])),
            text.get("hidden_size", 768),
            text.get("num_hidden_layers", 12),
            *(config.get(key, default) for key, default in wanted.items()),
        ]

    def encoder_layers(self, dimensions: Sequence[Any]) -> int:
        """See :meth:`CostTraits.encoder_layers`."""
        return int(dimensions[6])

    def features(
        self, *, images: int, positions: int, queries: int, tokens: int, objects: int, rank: int
    ) -> tuple[float, ...]:
        """See :meth:`CostTraits.features`."""
        return (1.0, rank, images, images * positions / 1e3, images * (positions + queries) * tokens / 1e5)

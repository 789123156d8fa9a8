"""Cost of the steps of MM-Grounding-DINO and LLMDet."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

from engine.teachers.grounding_dino.cost import GroundingDinoCost


class MMGroundingDinoCost(GroundingDinoCost):
    """Cost by positions of the feature maps, queries and tokens, as that of Grounding DINO."""

    bases: ClassVar[Mapping[str, str]] = {
        f"{prefix}_{size}": f"mm-grounding-dino-{size}"
        for prefix in ("openmmlab-community/mm_grounding_dino", "iSEE-Laboratory/llmdet")
        for size in ("tiny", "base", "large")
    }
    model_type: ClassVar[str] = "mm-grounding-dino"

    @cached_property
    def table(self) -> Mapping[str, Any]:
        """Counted bases: those of ``cost_model.json``, and those of Grounding DINO with the same layers.

        Counted at one shape with two presets, memory and FLOPs of the two models differ by less than 0.1 %.
        """
        same = GroundingDinoCost().table
        return {f"mm-{base}": entry for base, entry in same.items()} | dict(super().table)

"""MM-Grounding-DINO (arXiv:2401.02361) and LLMDet (arXiv:2501.18954): boxes from class names.

The architecture is that of Grounding DINO, trained on more data. Logits are divided by the square root of the number of
channels and have a learned bias, and in published files each decoder layer has a box head of its own; both are part of
the library's model.
"""

from __future__ import annotations

from typing import ClassVar

from transformers import MMGroundingDinoForObjectDetection, PreTrainedModel

from engine.teachers.grounding_dino.model import GroundingDino
from engine.teachers.mm_grounding_dino.traits import MM_GROUNDING_DINO
from engine.traits import TeacherTraits


class MMGroundingDino(GroundingDino):
    """MM-Grounding-DINO or LLMDet with the classes of one dataset."""

    traits: ClassVar[TeacherTraits] = MM_GROUNDING_DINO
    library: ClassVar[type[PreTrainedModel]] = MMGroundingDinoForObjectDetection

"""Traits of MM-Grounding-DINO."""

from __future__ import annotations

from engine.registry import register
from engine.teachers.grounding_dino.card import card_code
from engine.teachers.mm_grounding_dino.cost import MMGroundingDinoCost
from engine.teachers.mm_grounding_dino.settings import MMGroundingDinoSettings
from engine.traits import PublishedBase, TeacherTraits

MM_GROUNDING_DINO = register(
    TeacherTraits(
        name="MMGroundingDino",
        slug="mm_grounding_dino",
        title="MM-Grounding-DINO",
        summary="boxes from class names",
        annotations="boxes",
        on_request=True,
        reads_class_names=True,
        settings=MMGroundingDinoSettings,
        model="engine.teachers.mm_grounding_dino.model:MMGroundingDino",
        model_types=("mm-grounding-dino",),
        transformers_classes=frozenset({"MMGroundingDinoForObjectDetection"}),
        card_code=card_code,
        cost=MMGroundingDinoCost(),
        licence="Apache-2.0",
        published=(
            PublishedBase("openmmlab-community/mm_grounding_dino_tiny_o365v1_goldg_v3det", 172_900_000, "Apache-2.0"),
            PublishedBase("openmmlab-community/mm_grounding_dino_base_all", 233_000_000, "Apache-2.0"),
            PublishedBase("openmmlab-community/mm_grounding_dino_large_all", 342_700_000, "Apache-2.0"),
        ),
    )
)

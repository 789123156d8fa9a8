"""Traits of Grounding DINO."""

from __future__ import annotations

from engine.registry import register
from engine.teachers.grounding_dino.card import card_code
from engine.teachers.grounding_dino.cost import GroundingDinoCost
from engine.teachers.grounding_dino.settings import GroundingDinoSettings
from engine.traits import PublishedBase, TeacherTraits

GROUNDING_DINO = register(
    TeacherTraits(
        name="GroundingDino",
        slug="grounding_dino",
        title="Grounding DINO",
        summary="boxes from class names",
        annotations="boxes",
        reads_class_names=True,
        settings=GroundingDinoSettings,
        model="engine.teachers.grounding_dino.model:GroundingDino",
        model_types=("grounding-dino",),
        transformers_classes=frozenset({"GroundingDinoForObjectDetection"}),
        card_code=card_code,
        cost=GroundingDinoCost(),
        licence="Apache-2.0",
        published=(
            PublishedBase("IDEA-Research/grounding-dino-tiny", 172_000_000, "Apache-2.0"),
            PublishedBase("IDEA-Research/grounding-dino-base", 232_000_000, "Apache-2.0"),
        ),
    )
)

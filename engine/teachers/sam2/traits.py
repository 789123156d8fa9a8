"""Traits of SAM 2."""

from __future__ import annotations

from engine.registry import register
from engine.teachers.sam2.card import card_code
from engine.teachers.sam2.cost import Sam2Cost
from engine.teachers.sam2.settings import Sam2Settings
from engine.traits import PublishedBase, TeacherTraits

SAM2 = register(
    TeacherTraits(
        name="Sam2",
        slug="sam2",
        title="SAM 2",
        summary="masks from boxes and points, by SAM 2",
        annotations="masks",
        prompted=True,
        on_request=True,
        settings=Sam2Settings,
        model="engine.teachers.sam2.model:Sam2",
        model_types=("sam2", "sam2_video"),
        refused={
            "sam3": "SAM 3 is not supported: its weights are gated, the SAM License is not an open-source licence, and "
            "its fine-tuning is not implemented here; tune SAM 2 (Sam2) or SAM (Sam)"
        },
        transformers_classes=frozenset({"Sam2Model"}),
        card_code=card_code,
        cost=Sam2Cost(),
        licence="Apache-2.0",
        published=(
            PublishedBase("facebook/sam2.1-hiera-tiny", 31_400_000, "Apache-2.0"),
            PublishedBase("facebook/sam2.1-hiera-small", 38_500_000, "Apache-2.0"),
            PublishedBase("facebook/sam2.1-hiera-base-plus", 73_300_000, "Apache-2.0"),
            PublishedBase("facebook/sam2.1-hiera-large", 216_900_000, "Apache-2.0"),
        ),
    )
)

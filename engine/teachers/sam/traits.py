"""Traits of SAM."""

from __future__ import annotations

from engine.registry import register
from engine.teachers.sam.card import NOTE, card_code
from engine.teachers.sam.cost import SamCost
from engine.teachers.sam.settings import SamSettings
from engine.traits import PublishedBase, TeacherTraits

SAM = register(
    TeacherTraits(
        name="Sam",
        slug="sam",
        title="SAM",
        summary="masks from boxes and points",
        annotations="masks",
        prompted=True,
        settings=SamSettings,
        model="engine.teachers.sam.model:Sam",
        model_types=("sam",),
        transformers_classes=frozenset({"SamModel"}),
        card_code=card_code,
        cost=SamCost(),
        licence="Apache-2.0",
        published=(
            PublishedBase("facebook/sam-vit-base", 93_700_000, "Apache-2.0"),
            PublishedBase("facebook/sam-vit-large", 312_300_000, "Apache-2.0"),
            PublishedBase("facebook/sam-vit-huge", 641_100_000, "Apache-2.0"),
        ),
        original_suffix=".pth",
        card_note=NOTE,
    )
)

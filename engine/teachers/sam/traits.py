"""Traits of SAM."""

from __future__ import annotations

from engine.registry import TeacherTraits, register
from engine.teachers.sam.card import NOTE, card_code
from engine.teachers.sam.cost import SamCost
from engine.teachers.sam.settings import SamSettings

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
        transformers_classes=frozenset({"SamModel"}),
        card_code=card_code,
        cost=SamCost(),
        original_suffix=".pth",
        card_note=NOTE,
    )
)

from __future__ import annotations

from engine.traits import TeacherTraits
from toy_teacher.settings import ToySettings

TOY = TeacherTraits(
    name="Toy",
    slug="toy",
    title="Toy Squares",
    summary="the box of one square",
    annotations="boxes",
    settings=ToySettings,
    model="toy_teacher.model:RegisteredToy",
    card_code=lambda result: "print('toy')",
)
"""Registered by the test, so that other tests do not see it."""

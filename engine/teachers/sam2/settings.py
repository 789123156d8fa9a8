"""Settings of SAM 2 in ``teacher_config.yaml``; defaults are in ``defaults.yaml``."""

from __future__ import annotations

from typing import ClassVar

from engine.teachers.sam.settings import SamSettings


class Sam2Settings(SamSettings):
    """SAM 2: masks from boxes and points."""

    IOU_POWER: ClassVar[int] = 1

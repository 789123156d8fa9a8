"""Settings of MM-Grounding-DINO in ``teacher_config.yaml``; defaults are in ``defaults.yaml``."""

from __future__ import annotations

from engine.teachers.grounding_dino.settings import GroundingDinoSettings


class MMGroundingDinoSettings(GroundingDinoSettings):
    """MM-Grounding-DINO: boxes from class names."""

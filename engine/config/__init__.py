"""From what the user asks for and what the data is, to ``teacher_config.yaml``."""

from engine.config.model import (
    DataConfig,
    GroundingDinoSettings,
    LoraSettings,
    RunConfig,
    SamSettings,
    TeacherSettings,
    TrainingConfig,
)

__all__ = [
    "DataConfig",
    "GroundingDinoSettings",
    "LoraSettings",
    "RunConfig",
    "SamSettings",
    "TeacherSettings",
    "TrainingConfig",
]

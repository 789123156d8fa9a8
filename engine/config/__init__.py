"""Generate ``teacher_config.yaml`` from the user's request and the inspected data."""

from engine.config.model import DataConfig, DistillConfig, RunConfig, TrainingConfig
from engine.config.model_settings import ModelSettings
from engine.config.resolve import decisive, generate_config
from engine.config.serialization import from_yaml, to_yaml
from engine.config.teachers import LoraSettings, TeacherSettings

__all__ = [
    "DataConfig",
    "DistillConfig",
    "LoraSettings",
    "ModelSettings",
    "RunConfig",
    "TeacherSettings",
    "TrainingConfig",
    "decisive",
    "from_yaml",
    "generate_config",
    "to_yaml",
]

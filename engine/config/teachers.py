"""Settings of the teachers: section ``teachers`` of ``teacher_config.yaml``."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from engine.config.base import ConfigModel
from engine.config.model_settings import ModelSettings
from engine.config.sections import ModelsConfig
from engine.registry import ModelName, class_reader
from engine.spec import LoraPreset, TeacherName, Uri


class LoraSettings(ConfigModel):
    """Size and place of the adapter."""

    preset: LoraPreset = Field(description="decoder, encoder-decoder or all: what is adapted")
    rank: int = Field(ge=1, le=512, description="rank r of the update BA")
    alpha: int = Field(ge=1, le=1024, description="the update is alpha / r * BA")
    dropout: float = Field(ge=0, lt=1, description="dropout before A")
    skip_layers: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="first layers of the encoder that are not adapted; nothing before them is adapted either: their "
        "output is computed once per image and cached",
    )


class TeacherSettings(ModelSettings):
    """Settings common to all teachers."""

    base_model: Uri = Field(description="hub id, folder, s3:// prefix, or a checkpoint of the model's authors")
    lora: LoraSettings = Field(description="size and place of the adapter")

    def prompts_per_image(self, objects: int) -> int:
        """Return the number of prompts that an image with ``objects`` objects has in training."""
        return objects

    def prompt_share(self) -> float:
        """Return the share of prompt boxes in training that the prompting teacher detects."""
        return 0.0


class TeachersConfig(ModelsConfig):
    """Teachers to tune: a section for each registered teacher, by its slug; None if it is not tuned."""

    kind: ClassVar[type[ModelName]] = TeacherName

    def of(self, name: ModelName) -> TeacherSettings | None:
        """Return the settings of one teacher; None if it is not tuned."""
        settings = super().of(name)
        return settings if isinstance(settings, TeacherSettings) else None

    @property
    def reader(self) -> TeacherName | None:
        """Name of the tuned teacher that is prompted by class names."""
        return class_reader(self.names)

    @property
    def names(self) -> tuple[TeacherName, ...]:
        """Names of the teachers to tune, each after the one that prompts it."""
        return tuple(name for name in TeacherName if self.of(name) is not None)

"""Settings of students: section ``student`` of the configuration of a distillation."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from engine.config.model_settings import ModelSettings
from engine.config.sections import ModelsConfig
from engine.registry import ModelName, StudentName
from engine.spec import Uri

MAX_SIDE = 2048
"""Pixels of the longest side of an input."""

ImageSide = Annotated[int, Field(ge=32, le=MAX_SIDE, multiple_of=32)]


class StudentSettings(ModelSettings):
    """Settings common to all students."""

    base_model: Uri | None = Field(
        default=None, description="hub id, folder or s3:// prefix of weights to start from; null: random weights"
    )
    size: str | None = Field(
        default=None, max_length=32, description="size of a student with random weights; null: that of the base"
    )
    image_size: tuple[ImageSide, ImageSide] | None = Field(
        default=None,
        description="height and width in pixels that images are scaled to, multiples of 32; null: that of the base, "
        "or by the size",
    )
    masks: bool | None = Field(
        default=None, description="learn a mask of each object too; null: if training and validation data have masks"
    )
    mask_boundary: int = Field(
        default=1,
        ge=0,
        le=16,
        description="cells of a mask on either side of the outline of a teacher's mask that are ignored; a cell has 4 "
        "pixels of the input along a side; human masks are learned whole",
    )
    ema_decay: float = Field(
        ge=0,
        lt=1,
        description="decay per step of the moving average of the weights, which is evaluated and published; 0: the "
        "weights themselves",
    )
    backbone_rate: float = Field(gt=0, le=1, description="learning rate of the backbone as a share of the others'")


class StudentsConfig(ModelsConfig):
    """Students to train: a section for each registered student, by its slug; None if it is not trained."""

    kind: ClassVar[type[ModelName]] = StudentName

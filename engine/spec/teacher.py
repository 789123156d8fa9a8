"""Section ``teachers`` of the spec: the teachers to tune."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from engine.registry import TeacherName
from engine.spec.base import Dropout, LearningRate, SpecModel, Uri


class LoraPreset(StrEnum):
    """Modules of a teacher that get LoRA matrices."""

    DECODER = "decoder"
    ENCODER_DECODER = "encoder-decoder"
    ALL = "all"


LoraRank = Annotated[int, Field(ge=1, le=512)]


class LoraSpec(SpecModel):
    """Size and layers of the adapter."""

    preset: LoraPreset | None = Field(default=None, description="Layers of the teacher that are adapted.")
    rank: int | None = Field(default=None, ge=1, le=512, description="Rank r of the update BA.")
    alpha: int | None = Field(default=None, ge=1, le=1024, description="Scale: the update is alpha / r * BA.")
    dropout: Dropout | None = Field(default=None, description='Dropout before A, from "0" to below "1".')
    skip_layers: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Number of encoder layers, from its input, that are not adapted, like everything before them.",
    )


class TeacherSpec(SpecModel):
    """One teacher to tune, and changes of its defaults."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "accumulationSteps": "accumulationSteps was removed: set batchSize to the images per optimizer step; those per "
        "forward pass are chosen for the memory",
        "microBatchSize": "the images per forward pass are chosen for the memory; to limit them, give the setting "
        '`settings: {"teachers.*.micro_batch_size": "2"}`',
    }

    name: TeacherName = Field(description="Name of the teacher.")
    base_model: Uri | None = Field(
        default=None, description="Hub id, folder, prefix in a bucket, or a checkpoint of the model's authors."
    )
    revision: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = Field(
        default=None, description="Commit or tag of a hub id."
    )
    lora: LoraSpec = Field(default=LoraSpec(), description="Size and layers of the adapter.")
    epochs: int | None = Field(default=None, ge=1, le=10_000, description="Passes over the training split.")
    batch_size: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Images per optimizer step, over all GPUs; default: 4 to 16, by the number of images. How many of "
        "them go through the model at a time is chosen for the memory.",
    )
    learning_rate: LearningRate | None = Field(default=None, description='Peak learning rate, such as "1e-4".')

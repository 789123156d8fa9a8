"""Section ``training`` of the spec: settings of every teacher of the run."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from engine.spec.base import Share, SpecModel, Uri


class Precision(StrEnum):
    """Arithmetic of the forward pass. Weights, loss and optimizer are always 32 bit."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class OnNoGain(StrEnum):
    """Policy for an adapter that is not better than its base. It is published in any case."""

    PUBLISH = "Publish"
    FAIL = "Fail"


class EarlyStoppingSpec(SpecModel):
    """Shorten the run if AP does not improve."""

    patience: int | None = Field(
        default=None,
        ge=0,
        le=10_000,
        description="Evaluations without a better AP before the run is shortened: the learning rate then decays to 0 "
        "within a tenth of the planned steps. 0: never.",
    )


class RetentionSpec(SpecModel):
    """Labelled images of other classes than the dataset has, to measure the zero-shot skill of base and adapter."""

    annotations: Uri | None = Field(
        default=None,
        description="COCO instances JSON; the teacher is prompted for its classes, without those of the dataset. "
        "Default: built-in images.",
    )
    images: Uri | None = Field(
        default=None, description="Folder of the images; default: the folder of the annotations."
    )
    min_share: Share | None = Field(
        default=None,
        description="Share of the zero-shot AP of the base that the strength of the adapter is chosen to keep, such as "
        '"0.8", at any loss of gain. Default: as much as costs at most 5 % of the gain.',
    )

    @model_validator(mode="after")
    def _images_belong_to_annotations(self) -> Self:
        if self.images is not None and self.annotations is None:
            raise ValueError("images needs annotations")
        return self


class TrainingSpec(SpecModel):
    """Settings of every teacher of the run."""

    seed: int | None = Field(default=None, ge=0, le=2**31 - 1, description="Seed of all random choices.")
    precision: Precision | None = Field(default=None, description="Arithmetic of the forward pass.")
    early_stopping: EarlyStoppingSpec = Field(
        default=EarlyStoppingSpec(), description="Shorten the run if AP does not improve."
    )
    retention: RetentionSpec | None = Field(
        default=None,
        description="Images to measure retention of the base's zero-shot skill, and the share of it to keep.",
    )
    on_no_gain: OnNoGain = Field(
        default=OnNoGain.PUBLISH,
        description="Policy for an adapter that is not better than its base. Publish: publish it with a warning; Fail: "
        "publish it, then end with exit code 48.",
    )

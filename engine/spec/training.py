"""Section ``training`` of the spec: settings of every teacher of the run."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from engine.spec.base import SpecModel, Uri


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

    annotations: Uri = Field(
        description="COCO instances JSON; the teacher is prompted for its classes, without those of the dataset."
    )
    images: Uri | None = Field(
        default=None, description="Folder of the images; default: the folder of the annotations."
    )


class TrainingSpec(SpecModel):
    """Settings of every teacher of the run."""

    seed: int | None = Field(default=None, ge=0, le=2**31 - 1, description="Seed of all random choices.")
    precision: Precision | None = Field(default=None, description="Arithmetic of the forward pass.")
    early_stopping: EarlyStoppingSpec = Field(
        default=EarlyStoppingSpec(), description="Shorten the run if AP does not improve."
    )
    retention: RetentionSpec | None = Field(
        default=None,
        description="Images to measure how much of the base's zero-shot skill is kept; default: built-in images.",
    )
    on_no_gain: OnNoGain = Field(
        default=OnNoGain.PUBLISH,
        description="Policy for an adapter that is not better than its base. Publish: publish it with a warning; Fail: "
        "publish it, then end with exit code 48.",
    )

"""Section ``training`` of the spec: settings of every teacher of the run."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any, Self

from pydantic import Field, model_validator

from engine.spec.base import LearningRate, Share, SpecModel, Uri
from engine.spec.teacher import LoraPreset, LoraRank


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
        '"0.8", at any loss of gain; if none keeps it, the most, with a warning. Default: as much as costs at most 5 % '
        "of the gain.",
    )

    @model_validator(mode="after")
    def _images_belong_to_annotations(self) -> Self:
        if self.images is not None and self.annotations is None:
            raise ValueError("images needs annotations")
        return self


MOST_TRIALS = 8
"""Trials of a sweep: each is a whole training."""


class SweepSpec(SpecModel):
    """Settings to try out: every combination is one trial, a whole training of each teacher.

    The adapter of the trial with the highest AP on the validation split is published.
    """

    learning_rates: list[LearningRate] = Field(
        default=[], max_length=MOST_TRIALS, description='Peak learning rates, such as ["5e-4", "1e-3", "2e-3"].'
    )
    ranks: list[LoraRank] = Field(default=[], max_length=MOST_TRIALS, description="Ranks, such as [8, 32].")
    presets: list[LoraPreset] = Field(default=[], max_length=MOST_TRIALS, description="Presets of adapted layers.")

    @model_validator(mode="after")
    def _has_a_few_trials(self) -> Self:
        rates = [float(value) for value in self.learning_rates]
        given: dict[str, list[Any]] = {"learningRates": rates, "ranks": self.ranks, "presets": self.presets}
        lists = {name: values for name, values in given.items() if values}
        if not lists:
            raise ValueError("a sweep needs values to try: list learningRates, ranks or presets")
        for name, values in lists.items():
            if len(set(values)) < len(values):
                raise ValueError(f"a sweep tries each value once: {name} has one twice")
        trials = math.prod(map(len, lists.values()))
        if trials > MOST_TRIALS:
            sizes = " x ".join(f"{len(values)} {name}" for name, values in lists.items())
            raise ValueError(
                f"a sweep has at most {MOST_TRIALS} trials: every combination is one, and {sizes} make {trials}"
            )
        return self


def sweep_conflict(many: str, single: str) -> str:
    """Return the error about a setting that is set, and listed in a sweep.

    Args:
        many: List of the sweep, such as ``ranks``.
        single: Words that name the setting.
    """
    return f"training.sweep.{many} tries several values, and {single} sets one: remove one of them"


class TrainingSpec(SpecModel):
    """Settings of every teacher of the run."""

    seed: int | None = Field(default=None, ge=0, le=2**31 - 1, description="Seed of all random choices.")
    precision: Precision | None = Field(default=None, description="Arithmetic of the forward pass.")
    early_stopping: EarlyStoppingSpec = Field(
        default=EarlyStoppingSpec(), description="Shorten the run if AP does not improve."
    )
    sweep: SweepSpec | None = Field(
        default=None, description="Settings to try out; the best by AP on the validation split are published."
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

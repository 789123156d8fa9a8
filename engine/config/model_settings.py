"""Settings common to all models that are trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from engine.config.base import MOST, OUTSIDE_RUN_ID, ConfigModel
from engine.config.trials import with_values
from engine.spec import Uri
from engine.spec.training import MOST_TRIALS
from engine.text.pydantic_errors import in_words


class ModelSettings(ConfigModel):
    """Settings common to all models that are trained: teachers and students."""

    GROUPS: ClassVar[tuple[str, ...]] = ()
    """Groups of layers that the model can recompute."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "accumulation_steps": "accumulation_steps was removed: set batch_size to the images per optimizer step; "
        "micro_batch_size, the images per forward pass, is chosen for the memory"
    }

    base_model: Uri | None = Field(description="hub id, folder or s3:// prefix; null: random weights")
    revision: str | None = Field(max_length=128, description="commit or tag of a hub id")
    base_digest: str | None = Field(
        default=None,
        max_length=64,
        description="digest of the base's files when the run was planned; null for a hub id",
    )
    epochs: int = Field(ge=1, le=10_000, description="passes over the training split")
    batch_size: int = Field(ge=1, le=4096, description="images per optimizer step, over all processes")
    micro_batch_size: Annotated[int | None, OUTSIDE_RUN_ID] = Field(
        default=None,
        ge=1,
        le=MOST,
        description="maximum images per forward pass, which does not change the step; null: as many as fit in memory",
    )
    checkpointing: Annotated[Literal["auto"] | tuple[str, ...], OUTSIDE_RUN_ID] = Field(
        default="auto",
        description="groups of layers that recompute their activations instead of keeping them, such as encoder; "
        "auto: as many groups, and micro-batches as small, as memory requires",
    )
    learning_rate: float = Field(gt=0, le=1, description="peak learning rate of AdamW")
    weight_decay: float = Field(ge=0, description="of AdamW")
    warmup_fraction: float = Field(ge=0, lt=1, description="share of the steps with a rising learning rate")
    schedule: Literal["cosine", "constant"] = Field(description="learning rate after warm-up")
    clip_norm: float = Field(gt=0, description="gradients are scaled down to this norm")
    evaluations: int = Field(
        ge=1, le=MOST, description="evaluations on the validation split during training, at most one per epoch"
    )
    views: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="augmented views of an image that are used in turn, so that frozen layers run once per view; "
        "after each round one of them is replaced by a new one; 0: a new view each time",
    )

    trials: tuple[dict[str, Any], ...] = Field(
        default=(),
        max_length=MOST_TRIALS,
        description="settings of each trial of a sweep, by path: the trial with the best AP on the validation split is "
        "published; empty: one training with the settings above",
    )

    def of_trial(self, index: int) -> Self:
        """Return the settings of a trial, as of a run without a sweep."""
        return type(self).model_validate(with_values(self.model_dump(), self.trials[index]))

    @model_validator(mode="after")
    def _trials_are_valid(self) -> Self:
        for index in range(len(self.trials)):
            try:
                self.of_trial(index)
            except ValidationError as error:
                fault = error.errors()[0]
                path = ".".join(map(str, fault["loc"]))
                raise ValueError(f"trials[{index}]: {path}: {in_words(fault)}") from None
        return self

    @field_validator("checkpointing", mode="before")
    @classmethod
    def _are_groups(cls, value: object) -> object:
        """Accept one name as a list of one. Runs before type validation, which would report an error per type."""
        groups = [value] if value in cls.GROUPS else value
        wrong = [one for one in groups if one not in cls.GROUPS] if isinstance(groups, list | tuple) else []
        if wrong or not (groups == "auto" or isinstance(groups, list | tuple)):
            known = f"auto or a list of {', '.join(cls.GROUPS)}"
            raise ValueError(f"must be {known}" + (f", and {wrong[0]!r} is none of these" if wrong else ""))
        return groups

"""The whole spec of a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from engine.registry import of_one_kind
from engine.spec.augmentation import AugmentationSpec
from engine.spec.base import SettingPath, SettingValue, SpecModel, Uri
from engine.spec.dataset import DatasetSpec
from engine.spec.storage import StorageSpec
from engine.spec.teacher import LoraSpec, TeacherSpec
from engine.spec.training import TrainingSpec, sweep_conflict
from engine.text.pydantic_errors import closest
from engine.text.unsupported_schemes import output_refusal

SETTING_GROUPS = ("augmentation", "teachers", "training")
"""Groups of ``teacher_config.yaml`` with settings that a request may give by their path."""


def _suggestion(path: str) -> str:
    """Return advice on a path outside the groups.

    >>> _suggestion("epochs"), _suggestion("trainig.seed")
    ("did you mean 'teachers.*.epochs'?", "did you mean 'training.seed'?")
    """
    paths = {name: f"training.{name}" for name in TrainingSpec.model_fields}
    paths |= {name: f"teachers.*.lora.{name}" for name in LoraSpec.model_fields}
    paths |= {name: f"teachers.*.{name}" for name in TeacherSpec.model_fields if name not in ("name", "lora")}
    name = closest(path.rpartition(".")[2], list(paths))
    if name is not None:
        return f"did you mean {paths[name]!r}?"
    return f"paths begin with {', '.join(SETTING_GROUPS)}, such as 'teachers.*.epochs'"


def check_setting_paths(
    settings: Mapping[str, str], groups: Sequence[str], *, suggestion: Callable[[str], str]
) -> None:
    """Raise ValueError if a path is outside the groups; ``suggestion`` gives advice if no group is similar."""
    for path in settings:
        group, dot, rest = path.partition(".")
        if group not in groups or not dot:
            close = closest(group, list(groups))
            advice = suggestion(path) if close is None else f"did you mean {close + dot + rest!r}?"
            raise ValueError(f"--set or settings: there is no setting {path!r} ({advice})")


def check_output(output: str) -> str:
    """Return an output; raise ValueError if nothing can be written there."""
    refused = output_refusal(output)
    if refused is not None:
        raise ValueError(refused)
    return output


class FineTuneSpec(SpecModel):
    """Request of a user. Only ``dataset`` and ``output`` are required."""

    dataset: DatasetSpec = Field(description="Location of the data.")
    output: Uri = Field(description="Location of adapters and reports, under <output>/<name>/<run id>/.")
    storage: StorageSpec = Field(default=StorageSpec(), description="Access to object storage.")
    teachers: list[TeacherSpec] = Field(
        default=[], max_length=8, description="Teachers to tune; default: those that the data has annotations for."
    )
    class_prompts: dict[str, Annotated[str, StringConstraints(min_length=1, max_length=256)]] = Field(
        default={}, max_length=2048, description="A better phrase for a class name, as a prompt."
    )
    augmentation: AugmentationSpec = Field(default=AugmentationSpec(), description="Appearance of images in later use.")
    training: TrainingSpec = Field(default=TrainingSpec(), description="Settings of every teacher.")
    settings: dict[SettingPath, SettingValue] = Field(
        default={},
        max_length=256,
        description="Any setting of `teacher_config.yaml` under `teachers`, `training` or `augmentation` by its path, "
        "such as `training.patience`, or `teachers.*.epochs` for every teacher, with its value as YAML in quotes. It "
        "overrides the fields above.",
    )

    @field_validator("output")
    @classmethod
    def _can_be_written(cls, output: str) -> str:
        return check_output(output)

    @field_validator("settings")
    @classmethod
    def _are_in_a_group(cls, settings: dict[str, str]) -> dict[str, str]:
        check_setting_paths(settings, SETTING_GROUPS, suggestion=_suggestion)
        return settings

    @model_validator(mode="after")
    def _sweeps_what_is_not_set(self) -> Self:
        sweep = self.training.sweep
        if sweep is None:
            return self
        for teacher in self.teachers:
            if f"{teacher.name.path}.trials" in self.settings:  # it may be left out of the sweep
                continue
            own = (
                ("learningRates", sweep.learning_rates, "learningRate", teacher.learning_rate),
                ("ranks", sweep.ranks, "lora.rank", teacher.lora.rank),
                ("presets", sweep.presets, "lora.preset", teacher.lora.preset),
            )
            for many, values, single, value in own:
                if values and value is not None:
                    raise ValueError(sweep_conflict(many, f"{single} of {teacher.name}"))
        return self

    @field_validator("teachers")
    @classmethod
    def _each_once(cls, teachers: list[TeacherSpec]) -> list[TeacherSpec]:
        names = [teacher.name for teacher in teachers]
        if len(names) != len(set(names)):
            raise ValueError(f"each teacher can be listed once, found {', '.join(names)}")
        if alike := of_one_kind(names):
            raise ValueError(
                f"{' and '.join(alike)} both predict {alike[0].traits.annotations}, and a run tunes one teacher for "
                "each kind of annotations: leave one out; to compare them, make a run of each"
            )
        return teachers

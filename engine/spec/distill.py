"""The spec of a ``StudentDistill``: a small model that is trained on human labels, and on those of teachers."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from engine.registry import StudentName
from engine.spec.augmentation import AugmentationSpec
from engine.spec.base import LearningRate, Part, SettingPath, SettingValue, Share, SpecModel, Uri
from engine.spec.dataset import DatasetSpec
from engine.spec.optimize import ArtifactSpec
from engine.spec.request import check_output, check_setting_paths
from engine.spec.storage import StorageSpec
from engine.spec.training import EarlyStoppingSpec, Precision

DISTILL_SETTING_GROUPS = ("augmentation", "labels", "students", "training")
"""Groups of the configuration with settings that a request may give by their path."""


def _first_student() -> StudentName:
    name: StudentName = next(iter(StudentName))
    return name


class StudentSpec(SpecModel):
    """The student to train, and changes of its defaults."""

    name: StudentName = Field(default_factory=_first_student, description="Name of the student.")
    size: Annotated[str, StringConstraints(min_length=1, max_length=32)] | None = Field(
        default=None,
        description="Size of a student that begins with random weights: nano (default), small, medium or large; of "
        "D-FINE also femto and pico, of RF-DETR also tiny.",
    )
    base_model: Uri | None = Field(
        default=None, description="Hub id, folder or prefix in a bucket of weights to start from, instead of a size."
    )
    revision: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = Field(
        default=None, description="Commit or tag of a hub id."
    )
    epochs: int | None = Field(default=None, ge=1, le=10_000, description="Passes over the training split.")
    batch_size: int | None = Field(default=None, ge=1, le=4096, description="Images per optimizer step, over all GPUs.")
    learning_rate: LearningRate | None = Field(default=None, description='Peak learning rate, such as "8e-4".')
    masks: bool | None = Field(
        default=None,
        description="Learn a mask of each object too; default: if training and validation data have masks.",
    )

    @model_validator(mode="after")
    def _starts_from_one_of_both(self) -> Self:
        if self.size is not None and self.base_model is not None:
            raise ValueError("size is that of random weights: give either size or baseModel")
        if self.revision is not None and self.base_model is None:
            raise ValueError("revision goes with baseModel")
        return self


class UnlabelledSpec(SpecModel):
    """Further training images without human labels, and the labels of teachers for them."""

    images: Uri | None = Field(
        default=None, description="Folder of images without human labels; default: the folder of the labels."
    )
    labels: Uri | None = Field(
        default=None,
        description="COCO JSON whose annotations have a `score`, as `teacher label` writes it; default: the teacher "
        "labels the images first.",
    )
    unsure_share: Share | None = Field(
        default=None,
        description="Share of the threshold of a class from which the teacher's boxes below it are ignored in "
        'training instead of being background, such as "0.5"; default: none.',
    )
    human_share: Part | None = Field(
        default=None,
        description='Share of the images of each step that have human labels, above 0 and below 1, such as "0.5"; '
        "default: half.",
    )
    min_score: Share | None = Field(
        default=None,
        description="Lowest score of an object to learn; objects below are neither object nor background. Default: "
        "those that the labels mark as unsure.",
    )


class DistillTrainingSpec(SpecModel):
    """Settings of the training of a student."""

    seed: int | None = Field(default=None, ge=0, le=2**31 - 1, description="Seed of all random choices.")
    precision: Precision | None = Field(default=None, description="Arithmetic of the forward pass.")
    early_stopping: EarlyStoppingSpec = Field(
        default=EarlyStoppingSpec(), description="Shorten the run if AP does not improve."
    )


class DistillSpec(SpecModel):
    """Request of a student. Only ``dataset`` and ``output`` are required."""

    dataset: DatasetSpec = Field(
        description="Human labels. Its validation and test split are never used for training, and all metrics are "
        "measured on them."
    )
    output: Uri = Field(description="Location of students and reports, under <output>/<name>/<run id>/.")
    storage: StorageSpec = Field(default=StorageSpec(), description="Access to object storage.")
    teacher: Uri | None = Field(
        default=None,
        description="Folder of a run of teachers, or of an adapter: it labels the unlabelled images unless their "
        "labels are given, and the report compares the student with it.",
    )
    unlabelled: UnlabelledSpec | None = Field(default=None, description="Further training images without human labels.")
    student: StudentSpec = Field(default_factory=StudentSpec, description="The student to train.")
    optimize: list[ArtifactSpec] = Field(
        default=[],
        max_length=8,
        description="Formats that the trained student is exported to. Each file is measured in its own runtime on the "
        "validation split, and published next to the student if it keeps the AP.",
    )
    augmentation: AugmentationSpec = Field(default=AugmentationSpec(), description="Appearance of images in later use.")
    training: DistillTrainingSpec = Field(default=DistillTrainingSpec(), description="Settings of the training.")
    settings: dict[SettingPath, SettingValue] = Field(
        default={},
        max_length=256,
        description="Any setting of the configuration under `students`, `labels`, `training` or `augmentation` by its "
        "path, such as `students.*.ema_decay`, with its value as YAML in quotes. It overrides the fields above.",
    )

    @model_validator(mode="after")
    def _has_a_source_of_labels(self) -> Self:
        given = self.unlabelled
        if given is None:
            if self.teacher is not None:
                raise ValueError("teacher labels images: give their folder as unlabelled.images")
            return self
        if given.labels is None and self.teacher is None:
            raise ValueError("give a teacher that labels the unlabelled images, or unlabelled.labels")
        if given.labels is None and given.images is None:
            raise ValueError("unlabelled.images is required: the folder that the teacher labels")
        if given.labels is not None and given.unsure_share is not None:
            raise ValueError("unsureShare is for a teacher that labels now; given labels have their own unsure objects")
        return self

    @field_validator("optimize")
    @classmethod
    def _each_once(cls, optimize: list[ArtifactSpec]) -> list[ArtifactSpec]:
        formats = [one.format for one in optimize]
        if len(formats) != len(set(formats)):
            raise ValueError(f"each format can be listed once, found {', '.join(formats)}")
        return optimize

    @field_validator("output")
    @classmethod
    def _can_be_written(cls, output: str) -> str:
        return check_output(output)

    @field_validator("settings")
    @classmethod
    def _are_in_a_group(cls, settings: dict[str, str]) -> dict[str, str]:
        check_setting_paths(settings, DISTILL_SETTING_GROUPS, suggestion=_suggestion)
        return settings


def _suggestion(path: str) -> str:
    """Return advice on a path outside the groups."""
    return f"paths begin with {', '.join(DISTILL_SETTING_GROUPS)}, such as 'students.*.epochs'"

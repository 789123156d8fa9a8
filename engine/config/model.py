"""Schema of ``teacher_config.yaml``: every setting of a run, resolved. Nothing else influences the result."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from engine.config.base import MOST, OUTSIDE_RUN_ID, ConfigModel, OneName
from engine.config.model_settings import ModelSettings
from engine.config.sections import ModelsConfig
from engine.config.students import StudentsConfig
from engine.config.teachers import TeachersConfig
from engine.registry import ModelName
from engine.spec import (
    AddressingStyle,
    ArtifactFormat,
    AugmentationSpec,
    Crowds,
    ExifOrientation,
    OnNoGain,
    Precision,
    SplitSpec,
    Uri,
)
from engine.spec.base import Share


class SplitFilesConfig(ConfigModel):
    """One split of the data."""

    annotations: Uri = Field(description="COCO instances JSON or the folder of an export")
    images: Uri | None = Field(description="folder of the images; null: next to the annotations")


class SplitConfig(ConfigModel):
    """Division of one annotation file into splits, in percent of its images."""

    train: int = Field(description="to train on")
    val: int = Field(description="to choose the best adapter on")
    test: int = Field(description="to measure on images used neither for training nor for that choice")
    folds: int | None = Field(
        default=None, description="cross-validation with so many folds, which replace train and val; null: none"
    )

    @model_validator(mode="after")
    def _divides(self) -> Self:
        chosen = self.model_dump() if self.folds is None else {"test": self.test, "folds": self.folds}
        if self.model_dump() != {**SplitSpec(**chosen).shares, "folds": self.folds}:
            raise ValueError(f"train and val follow from {self.folds} folds: leave them as they were planned")
        return self


class DataConfig(ConfigModel):
    """The data and its class names."""

    digest: str = Field(description="sha256 of the annotations, to detect a change of the data")
    images_digest: str | None = Field(
        default=None,
        description="sha256 over the contents of all listed images, to detect other images under the same names; "
        "null: not checked",
    )
    images: int | None = Field(default=None, description="usable images, to detect missing ones")
    images_left_out: int = Field(default=0, ge=0, description="further images that inspection found unusable")
    classes: tuple[str, ...] = Field(description="class names; their order is the order of the prompt")
    prompts: dict[str, str] = Field(description="phrases that prompt a teacher instead of class names")
    source: SplitFilesConfig | None = Field(description="one annotation file, divided by `split`")
    split: SplitConfig | None = Field(description="percent of the images, stratified over classes")
    train: SplitFilesConfig | None = Field(description="splits of data that is already split")
    val: SplitFilesConfig | None = Field(description="the same, to choose the best adapter on")
    test: SplitFilesConfig | None = Field(description="the same, to measure on images used for nothing else")
    group_by: str | None = Field(
        default=None, description="property of images that must stay in one split: Folder, Prefix:_, Field:name"
    )
    max_leaked_percent: Annotated[int, OUTSIDE_RUN_ID] = Field(
        default=5, ge=0, le=100, description="maximum share of val or test images that train may contain too"
    )
    crowds: Crowds = Field(
        default=Crowds.IGNORE,
        description="annotations with iscrowd: 1 are regions to Ignore (neither target nor error), or Objects",
    )
    exif_orientation: ExifOrientation = Field(
        default=ExifOrientation.AUTO,
        description="whether images were annotated as EXIF rotates them (Applied) or as stored (Ignored), if "
        "their size does not show it; Auto: as the other images",
    )
    max_skipped_percent: Annotated[int, OUTSIDE_RUN_ID] = Field(
        default=20, ge=0, le=100, description="maximum share of unreadable images; these are left out"
    )


class StorageConfig(ConfigModel):
    """Access to object storage; credentials come from the standard chain of each cloud."""

    endpoint_url: str | None = Field(description="of an S3-compatible store; null: AWS, or from the environment")
    region: str | None = Field(description="of the buckets; null: from the AWS chain")
    addressing_style: AddressingStyle | None = Field(
        default=None, description="of URLs: path, virtual or auto; null: from the environment, else auto"
    )
    requester_pays: bool | None = Field(
        default=None, description="whether the requester pays for requests; null: from the environment"
    )
    ca_bundle: str | None = Field(
        default=None,
        description="file of trusted certificate authorities; null: AWS_CA_BUNDLE, or the system's",
    )
    azure_account: str | None = Field(
        default=None, description="storage account of az:// containers; null: from the environment"
    )
    google_project: str | None = Field(
        default=None, description="project that pays for requests to gs:// buckets; null: from the environment"
    )


class TrainingConfig(ConfigModel):
    """Training settings common to all teachers of the run."""

    seed: int = Field(ge=0, le=2**31 - 1, description="of all random choices")
    precision: Precision = Field(description="auto: bfloat16 where the hardware has it")
    patience: int = Field(
        ge=0, le=MOST, description="evaluations without a better AP until the run is shortened; 0: never"
    )
    class_balance: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="exponent of the repeat factor of images of rare classes, which is at most 4; 0: no balance",
    )
    retention: SplitFilesConfig | None = Field(
        default=None,
        description="labelled images of other classes, to measure retention of the base's skill; null: built-in ones",
    )
    min_retention: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="share of the base's zero-shot AP that the strength of the adapter is chosen to keep, at any loss "
        "of gain, or else the most; null: as much as costs at most 5 % of the gain",
    )
    strengths: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        default=(0.25, 0.5, 0.7, 0.85, 1.0),
        min_length=1,
        max_length=20,
        description="scales of the adapter's update to choose from after training; 1: as trained",
    )
    on_no_gain: Annotated[OnNoGain, OUTSIDE_RUN_ID] = Field(
        default=OnNoGain.PUBLISH,
        description="if an adapter is not better than its base: Publish it with a warning, or publish it and Fail",
    )
    workers: Annotated[int | None, OUTSIDE_RUN_ID] = Field(
        ge=0,
        le=256,
        description="processes that decode and augment; 0: the training process itself; null: one per core, at most 8",
    )
    features_gb: Annotated[float, OUTSIDE_RUN_ID] = Field(
        default=20.0,
        ge=0,
        description="disk space for cached outputs of frozen layers, at most half of the free space; 0: they are "
        "computed each time",
    )
    log_seconds: Annotated[float, OUTSIDE_RUN_ID] = Field(gt=0, description="minimum time between two progress lines")
    hang_seconds: Annotated[float, OUTSIDE_RUN_ID] = Field(
        default=900.0,
        gt=0,
        description="training without progress for this time, and for ten of its longest steps, is ended",
    )


class RunConfig(ConfigModel):
    """Everything that determines the result of a run."""

    name: Annotated[OneName, OUTSIDE_RUN_ID] = Field(description="name of the request")
    run_id: Annotated[OneName, OUTSIDE_RUN_ID] = Field(
        description="the same request on the same data has the same run id"
    )
    output: Annotated[Uri, OUTSIDE_RUN_ID] = Field(description="artifacts go to <output>/<name>/<run_id>/")
    storage: Annotated[StorageConfig, OUTSIDE_RUN_ID] = Field(description="access to object storage")
    data: DataConfig = Field(description="the training data and its class names")
    augmentation: AugmentationSpec = Field(description="how images may differ in later use")
    training: TrainingConfig = Field(description="settings common to all teachers")
    teachers: TeachersConfig = Field(description="teachers to tune, with their settings")

    @property
    def models(self) -> ModelsConfig:
        """The section of the models that the run trains."""
        return self.teachers

    def with_settings(self, name: ModelName, settings: ModelSettings, **training: Any) -> Self:
        """Return the configuration with other settings of one model, and changes of the common settings."""
        common = self.training.model_copy(update=training)
        return self.model_copy(update={name.section: self.models.replaced(name, settings), "training": common})


class LabelsConfig(ConfigModel):
    """Labels of teachers for further training images."""

    teacher: Uri | None = Field(
        default=None, description="folder of the teacher's run, which the report compares the student with; null: none"
    )
    annotations: Uri = Field(description="COCO JSON whose annotations have a score")
    images: Uri | None = Field(description="folder of the images; null: next to the annotations")
    digest: str = Field(description="sha256 of the annotations, to detect a change")
    human_share: float = Field(gt=0, lt=1, description="share of the images of each step that have human labels")
    min_score: float = Field(
        ge=0, le=1, description="lowest score of an object to learn; objects below are neither object nor background"
    )
    soft_scores: bool = Field(
        default=False,
        description="let the score of a teacher's object, as a share of a high score of its class, be the confidence "
        "to learn; false: learn it like an object with a human label",
    )


class ArtifactConfig(ConfigModel):
    """One artifact of the trained student."""

    format: ArtifactFormat = Field(description="format of the artifact")
    max_ap_drop: Share | None = Field(description="highest loss of AP against torch; null: by format")


class DistillConfig(RunConfig):
    """Everything that determines the result of a distillation: like a run of teachers, with students instead."""

    teachers: TeachersConfig = Field(default_factory=TeachersConfig, exclude=True)
    students: StudentsConfig = Field(description="students to train, with their settings")
    labels: LabelsConfig | None = Field(
        default=None, description="labels of teachers for further training images; null: human labels alone"
    )
    optimize: Annotated[tuple[ArtifactConfig, ...], OUTSIDE_RUN_ID] = Field(
        default=(),
        description="formats that the student is exported to, with the highest loss of AP of each (null: by format)",
    )

    @model_validator(mode="after")
    def _can_be_measured(self) -> Self:
        if self.optimize and self.data.split is not None and self.data.split.folds is not None:
            raise ValueError(
                "dataset.split.folds leaves no validation split to measure artifacts on: leave out optimize, and "
                "export the trained student with `teacher optimize --student … --data …`"
            )
        return self

    @model_validator(mode="after")
    def _fits_labels(self) -> Self:
        if self.labels is not None and self.data.split is not None and self.data.split.folds is not None:
            raise ValueError("dataset.split.folds cannot be combined with labels: leave one of them out")
        batches = {name: settings.batch_size for name in self.students.names if (settings := self.students.of(name))}
        for name, size in batches.items():
            if self.labels is not None and size < 2:
                raise ValueError(f"with labels {name.path}.batch_size must be at least 2: a step has images of both")
        return self

    @property
    def models(self) -> ModelsConfig:
        """The section of the students."""
        return self.students

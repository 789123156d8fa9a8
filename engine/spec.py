"""The user's request: the ``spec`` of a ``TeacherFineTune`` without settings for clusters only.

One typed definition feeds the command line, the manifest and the CRD. Names are camelCase in manifests and
snake_case in Python. Decimal numbers are strings instead of floats, as recommended for Kubernetes APIs.
Unset values follow from the data (see :mod:`engine.config`).
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator
from pydantic.alias_generators import to_camel

from engine.registry import TeacherName as TeacherName
from engine.text.pydantic_errors import nearest

Uri = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\x00-\x1f]+$")]
"""``s3://``, ``gs://`` or ``az://bucket/key``, ``pvc://claim/path``, ``file:///path`` or a plain path."""

SettingPath = Annotated[str, StringConstraints(min_length=1, max_length=128)]
SettingValue = Annotated[str, StringConstraints(max_length=4096)]

SETTING_GROUPS = ("augmentation", "teachers", "training")
"""Groups of ``teacher_config.yaml`` with settings that a request may give by their path."""

DecimalString = Annotated[str, StringConstraints(max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?$")]
"""A non-negative decimal number in quotes, such as ``"0.05"`` or ``"1e-4"``."""


def _is_probability(value: str) -> str:
    if Decimal(value) >= 1:
        raise ValueError('must be at least "0" and below "1"')
    return value


def _is_positive(value: str) -> str:
    if not 0 < Decimal(value) <= 1:
        raise ValueError('must be above "0" and at most "1"')
    return value


Dropout = Annotated[DecimalString, AfterValidator(_is_probability)]
LearningRate = Annotated[DecimalString, AfterValidator(_is_positive)]

GroupBy = Annotated[
    str, StringConstraints(max_length=80, pattern=r"^(Folder|Prefix:[^\x00-\x1f/]{1,8}|Field:[A-Za-z0-9_.-]{1,64})$")
]
"""Criterion for images that belong together: see :class:`engine.dataset.splits.leaks.Grouping`."""


class SpecModel(BaseModel):
    """Base of all that users write: frozen, camelCase outside, unknown names refused."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    REMOVED: ClassVar[Mapping[str, str]] = {}
    """Removed and renamed fields as users wrote them, with what to do instead; see
    :func:`engine.text.pydantic_errors.parse`."""


class LoraPreset(StrEnum):
    """Which part of a teacher gets LoRA matrices."""

    DECODER = "decoder"
    ENCODER_DECODER = "encoder-decoder"
    ALL = "all"


class Precision(StrEnum):
    """Arithmetic of the forward pass. Weights, loss and optimizer are always 32 bit."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class OnProblem(StrEnum):
    """Policy for images and annotations that cannot be used unchanged."""

    SKIP = "Skip"
    FAIL = "Fail"


class Crowds(StrEnum):
    """Meaning of annotations with ``iscrowd: 1``."""

    IGNORE = "Ignore"
    """Regions with objects that are not annotated one by one: neither learned nor counted as wrong."""
    OBJECTS = "Objects"
    """Objects like all others: some tools mark every run-length mask as a crowd."""


class OnNoGain(StrEnum):
    """Policy for an adapter that is not better than its base. It is published in any case."""

    PUBLISH = "Publish"
    FAIL = "Fail"


class Characteristic(StrEnum):
    """Properties of the objects; select the augmentation."""

    CHANGES_SHAPE = "changes_shape"
    REFLECTIVE_SURFACE = "reflective_surface"
    TRANSPARENT = "transparent"
    TEXTURELESS = "textureless"
    SMALL_OBJECTS = "small_objects"
    DENSE = "dense"
    ELONGATED = "elongated"
    REPETITIVE_PATTERN = "repetitive_pattern"
    LOW_CONTRAST = "low_contrast"
    ARTICULATED = "articulated"
    ORIENTATION_MATTERS = "orientation_matters"
    COLOR_MATTERS = "color_matters"


class Lighting(StrEnum):
    """Variation of the light in use."""

    STABLE = "stable"
    VARIABLE = "variable"
    LOW = "low"
    HARSH = "harsh"


class Weather(StrEnum):
    """Weather in front of the camera."""

    NONE = "none"
    RAIN = "rain"
    FOG = "fog"
    SNOW = "snow"
    MIXED = "mixed"


class Motion(StrEnum):
    """Source of motion blur."""

    NONE = "none"
    OBJECT = "object"
    CAMERA = "camera"


class Viewpoint(StrEnum):
    """Camera position. ``overhead`` means that all rotations are equally likely."""

    FIXED = "fixed"
    VARIED = "varied"
    OVERHEAD = "overhead"


class Background(StrEnum):
    """Background of the objects."""

    PLAIN = "plain"
    VARIED = "varied"
    CLUTTERED = "cluttered"


class AddressingStyle(StrEnum):
    """Position of the bucket in URLs: ``https://store/bucket/key`` or ``https://bucket.store/key``."""

    AUTO = "auto"
    PATH = "path"
    VIRTUAL = "virtual"


class Intensity(StrEnum):
    """Strength of the augmentation."""

    NONE = "none"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class ExifOrientation(StrEnum):
    """Orientation of the images during annotation: turned by EXIF, or as stored."""

    AUTO = "Auto"
    APPLIED = "Applied"
    IGNORED = "Ignored"


class SplitFilesSpec(SpecModel):
    """One split of a dataset that is already split."""

    annotations: Uri = Field(
        description="Annotations of this split, in any format that `annotations` of a dataset accepts."
    )
    images: Uri | None = Field(default=None, description="Folder of the split's images; default: that of the dataset.")


class SplitSpec(SpecModel):
    """Division of one annotation file, in percent of its images, stratified over classes."""

    train: int = Field(default=80, ge=1, le=99, description="Percent of the images for training.")
    val: int = Field(default=20, ge=1, le=99, description="Percent for selecting the best adapter.")
    test: int = Field(default=0, ge=0, le=98, description="Percent used neither for training nor for selection.")

    @model_validator(mode="after")
    def _sums_to_100(self) -> Self:
        total = self.train + self.val + self.test
        if total != 100:
            raise ValueError(f"train {self.train}, val {self.val} and test {self.test} make {total} percent, not 100")
        return self


class DatasetSpec(SpecModel):
    """Location of the data: one annotation file, or one per split."""

    annotations: Uri | None = Field(
        default=None,
        description="COCO JSON, the folder of a COCO, YOLO, Pascal VOC, LabelMe or VIA export, or a zip file of one.",
    )
    images: Uri | None = Field(
        default=None, description="Folder of the images; default: the folder of the annotations."
    )
    train: SplitFilesSpec | None = Field(default=None, description="Training split, if the data is already split.")
    val: SplitFilesSpec | None = Field(default=None, description="Validation split, if the data is already split.")
    test: SplitFilesSpec | None = Field(default=None, description="Test split, if the data is already split.")
    split: SplitSpec | None = Field(default=None, description="Division of `annotations`; default: 80/20/0.")
    group_by: GroupBy | None = Field(
        default=None,
        description="Images that must stay in the same split. Folder: images of one folder. Prefix:_: images whose "
        "names are equal "
        "before the last _ (or another separator). Field:video_id: images with the same video_id (or another field) in "
        "their image record.",
    )
    on_problem: OnProblem = Field(
        default=OnProblem.SKIP,
        description="Skip: repair what can be repaired, leave out what cannot be used, and count both; Fail: refuse "
        "the "
        "dataset in either case.",
    )
    crowds: Crowds = Field(
        default=Crowds.IGNORE,
        description="Meaning of annotations with `iscrowd: 1`. Ignore: regions that are neither learned nor counted as "
        "wrong, as in COCO; Objects: objects like all others, for exports that mark every run-length mask as a crowd.",
    )
    max_skipped_percent: int = Field(
        default=20,
        ge=0,
        le=100,
        description="Refuse the dataset if a larger share of images or annotations would be left out.",
    )
    max_leaked_percent: int = Field(
        default=5,
        ge=0,
        le=100,
        description="Refuse the dataset if a larger share of the images of val, or of test, is in train too.",
    )

    exif_orientation: ExifOrientation = Field(
        default=ExifOrientation.AUTO,
        description="Orientation of images during annotation, for images whose size in the annotations does not show "
        "it. "
        "Applied: EXIF orientation was applied; Ignored: images were annotated as stored; Auto: like the majority of "
        "images whose size shows it, otherwise Applied.",
    )

    @model_validator(mode="after")
    def _one_way_to_give_data(self) -> Self:
        if (self.annotations is None) == (self.train is None):
            raise ValueError("give either dataset.annotations or dataset.train with dataset.val, not both or none")
        if self.train is not None and self.val is None:
            raise ValueError("dataset.train needs dataset.val too: the best adapter is selected on it")
        if self.train is None and (self.val is not None or self.test is not None):
            raise ValueError("dataset.val and dataset.test go with dataset.train, not with dataset.annotations")
        if self.train is not None and self.split is not None:
            raise ValueError("dataset.split divides dataset.annotations; dataset.train is split already")
        return self


class StorageSpec(SpecModel):
    """Access to object storage. Credentials come from the standard chain of each cloud, never from here."""

    endpoint_url: Annotated[str, StringConstraints(max_length=512, pattern=r"^https?://[^\s]+$")] | None = Field(
        default=None, description="Endpoint of an S3-compatible store; default: AWS."
    )
    region: Annotated[str, StringConstraints(max_length=64, pattern=r"^[a-z0-9-]+$")] | None = Field(
        default=None, description="Region of the buckets; default: that of the AWS configuration."
    )
    addressing_style: AddressingStyle | None = Field(
        default=None,
        description="Position of the bucket in URLs: in the path, or (virtual) in the host name; default: auto, which "
        "the store accepts.",
    )
    requester_pays: bool | None = Field(
        default=None, description="Pay for the requests to buckets whose owner does not; default: false."
    )
    ca_bundle: Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\x00-\x1f]+$")] | None = (
        Field(
            default=None,
            description="Path of a file, on the machine or in the pod, with certificate authorities for the store and "
            "the "
            "model hub, in place of the usual ones.",
        )
    )
    azure_account: Annotated[str, StringConstraints(max_length=24, pattern=r"^[a-z0-9]{3,24}$")] | None = Field(
        default=None, description="Storage account of az:// containers; default: AZURE_STORAGE_ACCOUNT_NAME."
    )
    google_project: Annotated[str, StringConstraints(max_length=64, pattern=r"^[a-z0-9][a-z0-9.:-]*$")] | None = Field(
        default=None, description="Project that pays for requests to gs:// buckets; default: the owner of the bucket."
    )


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

    REMOVED = {
        "accumulationSteps": "accumulationSteps was removed: set batchSize to the images per optimizer step; those per "
        "forward pass are chosen for the memory"
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


class EnvironmentSpec(SpecModel):
    """Environment of the objects."""

    lighting: Lighting | None = Field(default=None, description="Variation of the light.")
    weather: Weather | None = Field(default=None, description="Weather in front of the camera.")
    motion: Motion | None = Field(default=None, description="What moves during the exposure.")
    viewpoint: Viewpoint | None = Field(default=None, description="Position of the camera.")
    background: Background | None = Field(default=None, description="Background of the objects.")


class AugmentationSpec(SpecModel):
    """Appearance of images in later use, which the augmentation imitates."""

    characteristics: list[Characteristic] = Field(default=[], max_length=16, description="Properties of the objects.")
    environment: EnvironmentSpec = Field(default=EnvironmentSpec(), description="Environment of the objects.")
    intensity: Intensity | None = Field(default=None, description="Strength of the augmentation.")


class EarlyStoppingSpec(SpecModel):
    """Stop before the last epoch if AP does not improve."""

    patience: int | None = Field(
        default=None,
        ge=0,
        le=10_000,
        description="Evaluations without a better AP before stopping; 0: never.",
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
        default=EarlyStoppingSpec(), description="Stop before the last epoch if AP does not improve."
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


class FineTuneSpec(SpecModel):
    """Request of a user. Only ``dataset`` and ``output`` are required."""

    dataset: DatasetSpec = Field(description="Location of the data.")
    output: Uri = Field(description="Location of adapters and reports, under <output>/<name>/<run id>/.")
    storage: StorageSpec = Field(default=StorageSpec(), description="Access to object storage.")
    teachers: list[TeacherSpec] = Field(
        default=[], max_length=2, description="Teachers to tune; default: those that the data has annotations for."
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

    @field_validator("settings")
    @classmethod
    def _are_in_a_group(cls, settings: dict[str, str]) -> dict[str, str]:
        for path in settings:
            group, dot, _ = path.partition(".")
            if group not in SETTING_GROUPS or not dot:
                raise ValueError(f"there is no setting {path!r}{nearest(group, list(SETTING_GROUPS))}")
        return settings

    @field_validator("teachers")
    @classmethod
    def _each_once(cls, teachers: list[TeacherSpec]) -> list[TeacherSpec]:
        names = [teacher.name for teacher in teachers]
        if len(names) != len(set(names)):
            raise ValueError(f"each teacher can be listed once, found {', '.join(names)}")
        return teachers

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

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator
from pydantic.alias_generators import to_camel

Uri = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\x00-\x1f]+$")]
"""``s3://``, ``gs://`` or ``az://bucket/key``, ``pvc://claim/path``, ``file:///path`` or a plain path."""

DecimalString = Annotated[str, StringConstraints(max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?$")]
"""A non-negative decimal number in quotes, such as ``"0.05"`` or ``"1e-4"``."""


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


class TeacherName(StrEnum):
    """The supported teachers."""

    GROUNDING_DINO = "GroundingDino"
    SAM = "Sam"

    @property
    def slug(self) -> str:
        """The name in files, keys and Python: ``grounding_dino``, ``sam``."""
        return self.name.lower()


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
    """Regions where nobody has told the objects apart: neither learned nor counted as wrong."""
    OBJECTS = "Objects"
    """Objects like all others: some tools mark every mask of run lengths so."""


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


class PartSpec(SpecModel):
    """One part of a dataset that comes already split."""

    annotations: Uri = Field(description="COCO instances JSON of this part, or what `annotations` of a dataset may be.")
    images: Uri | None = Field(default=None, description="Folder of this part's images; default: that of the dataset.")


class SplitSpec(SpecModel):
    """How one annotation file is divided, in percent of its images, stratified over classes."""

    train: int = Field(default=80, ge=1, le=99, description="Percent of the images to train on.")
    val: int = Field(default=20, ge=1, le=99, description="Percent to select the best adapter on.")
    test: int = Field(default=0, ge=0, le=98, description="Percent never seen in training or selection.")

    @model_validator(mode="after")
    def _sums_to_100(self) -> Self:
        total = self.train + self.val + self.test
        if total != 100:
            raise ValueError(f"train {self.train}, val {self.val} and test {self.test} make {total} percent, not 100")
        return self


class DatasetSpec(SpecModel):
    """Where the data lies: one annotation file, or the parts apart."""

    annotations: Uri | None = Field(
        default=None,
        description="COCO JSON; the folder of a COCO, YOLO, Pascal VOC, LabelMe or VIA export; or a zip file of one.",
    )
    images: Uri | None = Field(
        default=None, description="Folder of the images; default: the folder that holds the annotations."
    )
    train: PartSpec | None = Field(default=None, description="Training part, where the data comes split.")
    val: PartSpec | None = Field(default=None, description="Validation part, where the data comes split.")
    test: PartSpec | None = Field(default=None, description="Test part, where the data comes split.")
    split: SplitSpec | None = Field(default=None, description="How to divide `annotations`; default: 80/20/0.")
    group_by: GroupBy | None = Field(
        default=None,
        description="Images that belong together, so that a split keeps them on one side. Folder: those of one folder. "
        "Prefix:_: those whose names are the same before the last _ (or another separator). Field:video_id: those with "
        "the same video_id (or another field) in their image record.",
    )
    on_problem: OnProblem = Field(
        default=OnProblem.SKIP,
        description="Skip: what can be repaired is, what cannot be used is left out, and all of it is counted; Fail: "
        "either is refused.",
    )
    crowds: Crowds = Field(
        default=Crowds.IGNORE,
        description="What annotations with `iscrowd: 1` are. Ignore: regions that are neither learned nor counted as "
        "wrong, as COCO means them; Objects: objects like all others, for exports that mark every run-length mask so.",
    )
    max_skipped_percent: int = Field(
        default=20, ge=0, le=100, description="More images or annotations than these are never left out, but refused."
    )
    max_leaked_percent: int = Field(
        default=5,
        ge=0,
        le=100,
        description="More images of val, or of test, than these that are in train as well are refused.",
    )

    exif_orientation: ExifOrientation = Field(
        default=ExifOrientation.AUTO,
        description="Applied: images were annotated as their EXIF orientation turns them; Ignored: as they are stored; "
        "Auto: as most images are whose size in the annotations shows it, else Applied. It decides on images whose "
        "size does not show it.",
    )

    @model_validator(mode="after")
    def _one_way_to_give_data(self) -> Self:
        if (self.annotations is None) == (self.train is None):
            raise ValueError("give either dataset.annotations or dataset.train with dataset.val, not both or none")
        if self.train is not None and self.val is None:
            raise ValueError("dataset.train needs dataset.val beside it: the best adapter is chosen on it")
        if self.train is None and (self.val is not None or self.test is not None):
            raise ValueError("dataset.val and dataset.test go with dataset.train, not with dataset.annotations")
        if self.train is not None and self.split is not None:
            raise ValueError("dataset.split divides dataset.annotations; dataset.train is split already")
        return self


class StorageSpec(SpecModel):
    """How object storage is reached. Credentials come from the standard chain of each cloud, never from here."""

    endpoint_url: Annotated[str, StringConstraints(max_length=512, pattern=r"^https?://[^\s]+$")] | None = Field(
        default=None, description="Endpoint of an S3-compatible store; default: AWS."
    )
    region: Annotated[str, StringConstraints(max_length=64, pattern=r"^[a-z0-9-]+$")] | None = Field(
        default=None, description="Region of the buckets; default: what the AWS chain says."
    )
    addressing_style: AddressingStyle | None = Field(
        default=None,
        description="Where the bucket stands in URLs, in the path or (virtual) in the host name; default: auto, as the "
        "store takes it.",
    )
    requester_pays: bool | None = Field(
        default=None, description="Pay for the requests to buckets whose owner does not; default: false."
    )
    ca_bundle: Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\x00-\x1f]+$")] | None = (
        Field(
            default=None,
            description="Path of a file, on the machine or in the pod, of certificate authorities that the store and "
            "the model hub are trusted by, in place of the usual ones.",
        )
    )
    azure_account: Annotated[str, StringConstraints(max_length=24, pattern=r"^[a-z0-9]{3,24}$")] | None = Field(
        default=None, description="Storage account of az:// containers; default: AZURE_STORAGE_ACCOUNT_NAME."
    )
    google_project: Annotated[str, StringConstraints(max_length=64, pattern=r"^[a-z0-9][a-z0-9.:-]*$")] | None = Field(
        default=None, description="Project that pays for requests to gs:// buckets; default: the owner of the bucket."
    )


class LoraSpec(SpecModel):
    """Size and place of the adapter."""

    preset: LoraPreset | None = Field(default=None, description="Which part of the teacher is adapted.")
    rank: int | None = Field(default=None, ge=1, le=512, description="Rank r of the update BA.")
    alpha: int | None = Field(default=None, ge=1, le=1024, description="Scale: the update is alpha / r * BA.")
    dropout: DecimalString | None = Field(default=None, description='Dropout before A, from "0" to below "1".')
    skip_layers: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Layers of the encoder, from its input, that are not adapted, nor is anything before them.",
    )

    @field_validator("dropout")
    @classmethod
    def _is_probability(cls, value: str | None) -> str | None:
        if value is not None and Decimal(value) >= 1:
            raise ValueError('must be at least "0" and below "1"')
        return value


class TeacherSpec(SpecModel):
    """One teacher to tune, and what to change of its defaults."""

    REMOVED = {
        "accumulationSteps": "accumulationSteps was removed: set batchSize to the images per optimizer step; those per "
        "forward pass are chosen for the memory"
    }

    name: TeacherName = Field(description="Which teacher.")
    base_model: Uri | None = Field(
        default=None, description="Hub id, folder, prefix in a bucket, or (Sam) a segment-anything .pth file."
    )
    revision: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = Field(
        default=None, description="Commit or tag of a hub id."
    )
    lora: LoraSpec = Field(default=LoraSpec(), description="Size and place of the adapter.")
    epochs: int | None = Field(default=None, ge=1, le=10_000, description="Passes over the training part.")
    batch_size: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Images per optimizer step, over all GPUs; default: 4 to 16, by the number of images. How many of "
        "them go through the model at a time is chosen for the memory.",
    )
    learning_rate: DecimalString | None = Field(default=None, description='Peak learning rate, such as "1e-4".')

    @field_validator("learning_rate")
    @classmethod
    def _is_positive(cls, value: str | None) -> str | None:
        if value is not None and not 0 < Decimal(value) <= 1:
            raise ValueError('must be above "0" and at most "1"')
        return value


class EnvironmentSpec(SpecModel):
    """Where the objects are seen."""

    lighting: Lighting | None = Field(default=None, description="How light varies.")
    weather: Weather | None = Field(default=None, description="What weather the camera sees.")
    motion: Motion | None = Field(default=None, description="What moves while the shutter is open.")
    viewpoint: Viewpoint | None = Field(default=None, description="From where the objects are seen.")
    background: Background | None = Field(default=None, description="What is behind the objects.")


class AugmentationSpec(SpecModel):
    """What images may look like in use, so that training shows it."""

    characteristics: list[Characteristic] = Field(default=[], max_length=16, description="What the objects are like.")
    environment: EnvironmentSpec = Field(default=EnvironmentSpec(), description="Where the objects are seen.")
    intensity: Intensity | None = Field(default=None, description="How strongly images are changed.")


class EarlyStoppingSpec(SpecModel):
    """When to stop before the last epoch."""

    patience: int | None = Field(
        default=None,
        ge=0,
        le=10_000,
        description="Evaluations without a better AP before stopping; 0: never.",
    )


class RetentionSpec(SpecModel):
    """Labelled images of other things than the dataset shows: what a base can do before it is tuned."""

    annotations: Uri = Field(description="COCO instances JSON; its classes are asked for, less those of the dataset.")
    images: Uri | None = Field(
        default=None, description="Folder of the images; default: the folder that holds the annotations."
    )


class TrainingSpec(SpecModel):
    """What holds for every teacher of the run."""

    seed: int | None = Field(default=None, ge=0, le=2**31 - 1, description="Seed of all random choices.")
    precision: Precision | None = Field(default=None, description="Arithmetic of the forward pass.")
    early_stopping: EarlyStoppingSpec = Field(
        default=EarlyStoppingSpec(), description="When to stop before the last epoch."
    )
    retention: RetentionSpec | None = Field(
        default=None, description="On what to measure how much of the base's skill is left; default: built-in images."
    )
    on_no_gain: OnNoGain = Field(
        default=OnNoGain.PUBLISH,
        description="If an adapter is not better than its base: Publish it with a warning, or publish it and Fail, "
        "with exit code 48.",
    )


class FineTuneSpec(SpecModel):
    """All that a user asks for. Only ``dataset`` and ``output`` are required."""

    dataset: DatasetSpec = Field(description="Where the data lies.")
    output: Uri = Field(description="Where adapters and reports go, under <output>/<name>/<run id>/.")
    storage: StorageSpec = Field(default=StorageSpec(), description="How object storage is reached.")
    teachers: list[TeacherSpec] = Field(
        default=[], max_length=2, description="Teachers to tune; default: those the data calls for."
    )
    class_prompts: dict[str, Annotated[str, StringConstraints(min_length=1, max_length=256)]] = Field(
        default={}, max_length=2048, description="A better phrase for a class name, for Grounding DINO."
    )
    augmentation: AugmentationSpec = Field(default=AugmentationSpec(), description="What images may look like.")
    training: TrainingSpec = Field(default=TrainingSpec(), description="What holds for every teacher.")

    @field_validator("teachers")
    @classmethod
    def _each_once(cls, teachers: list[TeacherSpec]) -> list[TeacherSpec]:
        names = [teacher.name for teacher in teachers]
        if len(names) != len(set(names)):
            raise ValueError(f"each teacher can be listed once, found {', '.join(names)}")
        return teachers

"""Schema of ``teacher_config.yaml``: every setting of a run, resolved. Nothing else influences the result."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    StringConstraints,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from engine.registry import class_reader
from engine.spec import (
    AddressingStyle,
    AugmentationSpec,
    Crowds,
    ExifOrientation,
    LoraPreset,
    OnNoGain,
    Precision,
    SplitSpec,
    TeacherName,
    Uri,
)

MOST = 1_000_000
"""Largest count that a setting may have: far above useful values, and small enough for arithmetic."""

OneName = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]
"""The name of one folder."""


class OutsideRunId:
    """Mark of a setting that does not change the result of a run: location, speed, logging, limits that only reject.

    Such a setting has no part in the run id, and may differ when a run is resumed.
    """


OUTSIDE_RUN_ID = OutsideRunId()


def outside_run_id(model: type[BaseModel]) -> frozenset[str]:
    """Return the names of the settings with the mark :class:`OutsideRunId`."""
    return frozenset(name for name, field in model.model_fields.items() if OUTSIDE_RUN_ID in field.metadata)


class ConfigModel(BaseModel):
    """Base of all settings: frozen, unknown names are rejected. A field's description is its comment in the YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    REMOVED: ClassVar[Mapping[str, str]] = {}
    """Removed and renamed settings, with what to do instead; see :func:`engine.text.pydantic_errors.parse`."""

    @field_validator("*", mode="before")
    @classmethod
    def _reject_booleans(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject booleans: pydantic would accept them as 1 and 0."""
        if isinstance(value, bool) and info.field_name != "checkpointing":  # it has its own message
            raise ValueError("must not be true or false")
        return value


class LoraSettings(ConfigModel):
    """Size and place of the adapter."""

    preset: LoraPreset = Field(description="decoder, encoder-decoder or all: what is adapted")
    rank: int = Field(ge=1, le=512, description="rank r of the update BA")
    alpha: int = Field(ge=1, le=1024, description="the update is alpha / r * BA")
    dropout: float = Field(ge=0, lt=1, description="dropout before A")
    skip_layers: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="first layers of the encoder that are not adapted; nothing before them is adapted either: their "
        "output is computed once per image and cached",
    )


class TeacherSettings(ConfigModel):
    """Settings common to all teachers."""

    GROUPS: ClassVar[tuple[str, ...]] = ()
    """Groups of layers that the teacher can recompute."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "accumulation_steps": "accumulation_steps was removed: set batch_size to the images per optimizer step; "
        "micro_batch_size, the images per forward pass, is chosen for the memory"
    }

    base_model: Uri = Field(description="hub id, folder, s3:// prefix, or a checkpoint of the model's authors")
    revision: str | None = Field(max_length=128, description="commit or tag of a hub id")
    base_digest: str | None = Field(
        default=None,
        max_length=64,
        description="digest of the base's files when the run was planned; null for a hub id",
    )
    lora: LoraSettings = Field(description="size and place of the adapter")
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

    def prompts_per_image(self, objects: int) -> int:
        """Return the number of prompts that an image with ``objects`` objects has in training."""
        return objects

    def prompt_share(self) -> float:
        """Return the share of prompt boxes in training that the prompting teacher detects."""
        return 0.0

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


class SplitFilesConfig(ConfigModel):
    """One split of the data."""

    annotations: Uri = Field(description="COCO instances JSON or the folder of an export")
    images: Uri | None = Field(description="folder of the images; null: next to the annotations")


class SplitConfig(ConfigModel):
    """Division of one annotation file into splits, in percent of its images."""

    train: int = Field(description="to train on")
    val: int = Field(description="to choose the best adapter on")
    test: int = Field(description="to measure on images used neither for training nor for that choice")

    @model_validator(mode="after")
    def _divides(self) -> Self:
        SplitSpec(**self.model_dump())
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
    patience: int = Field(ge=0, le=MOST, description="evaluations without a better AP before stopping; 0: never")
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


class TeachersConfig(ConfigModel):
    """Teachers to tune: a section for each registered teacher, by its slug; None if it is not tuned."""

    model_config = ConfigDict(extra="allow")

    @classmethod
    def resolved(cls) -> type[BaseModel]:
        """Return the model of the sections of all teachers that are registered now."""
        return _sections(tuple(TeacherName))

    @model_validator(mode="wrap")
    @classmethod
    def _by_registry(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(data, cls):
            return data
        checked = cls.resolved().model_validate(data)
        return handler({name: getattr(checked, name) for name in type(checked).model_fields})

    def of(self, name: TeacherName) -> TeacherSettings | None:
        """Return the settings of one teacher; None if it is not tuned."""
        settings: TeacherSettings | None = (self.model_extra or {}).get(name.slug)
        return settings

    @property
    def reader(self) -> TeacherName | None:
        """Name of the tuned teacher that is prompted by class names."""
        return class_reader(self.names)

    @property
    def names(self) -> tuple[TeacherName, ...]:
        """Names of the teachers to tune, each after the one that prompts it."""
        return tuple(name for name in TeacherName if self.of(name) is not None)


@cache
def _sections(names: tuple[TeacherName, ...]) -> type[BaseModel]:
    fields: dict[str, Any] = {
        name.slug: (name.traits.settings | None, Field(default=None, description=name.traits.summary)) for name in names
    }
    return create_model("TeacherSections", __base__=ConfigModel, **fields)


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

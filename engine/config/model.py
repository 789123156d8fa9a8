"""``teacher_config.yaml``: every setting of a run, resolved. What is not in it has no influence on the result."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, field_validator, model_validator

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
"""Largest count that a setting may have: far above what is useful, and small enough to reckon with."""

OneName = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]
"""The name of one folder."""


class ConfigModel(BaseModel):
    """Base of all settings: frozen, unknown names refused. A field's description is its comment in the YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse booleans, which no setting is: pydantic would take them for 1 and 0."""
        if isinstance(value, bool) and info.field_name != "checkpointing":  # which has its own sentence
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
        description="layers of the encoder, from its input, that are not adapted, nor is what comes before: what "
        "they make of an image is computed once and kept",
    )


class TeacherSettings(ConfigModel):
    """What every teacher has."""

    GROUPS: ClassVar[tuple[str, ...]] = ()
    """Groups of layers that the teacher can compute again."""

    base_model: Uri = Field(description="hub id, folder, s3:// prefix, or (SAM) a .pth file")
    revision: str | None = Field(max_length=128, description="commit or tag of a hub id")
    base_digest: str | None = Field(
        default=None, max_length=64, description="of the base's files when the run was planned; null: of a hub id"
    )
    lora: LoraSettings = Field(description="size and place of the adapter")
    epochs: int = Field(ge=1, le=MOST, description="passes over the training part")
    batch_size: int = Field(
        ge=1, le=MOST, description="images at a time, at most: fewer if memory asks for it; the step is the same"
    )
    accumulation_steps: int = Field(ge=1, le=MOST, description="batches whose gradients are added before a step")
    checkpointing: Literal["auto"] | tuple[str, ...] = Field(
        default="auto",
        description="groups of layers that compute their activations again instead of keeping them (encoder, decoder, "
        "of Grounding DINO also backbone); auto: and batches cut smaller, as far as memory asks for it",
    )
    learning_rate: float = Field(gt=0, le=1, description="peak learning rate of AdamW")
    weight_decay: float = Field(ge=0, description="of AdamW")
    warmup_fraction: float = Field(ge=0, lt=1, description="share of the steps with a rising learning rate")
    schedule: Literal["cosine", "constant"] = Field(description="learning rate after warm-up")
    clip_norm: float = Field(gt=0, description="gradients are scaled down to this norm")
    evaluations: int = Field(
        ge=1, le=MOST, description="how often the validation part is measured in training, at most once an epoch"
    )
    views: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="augmented views of an image that take turns, so that what is not adapted is computed once a view; "
        "after each turn one of them gives way to a new one; 0: a new view each time",
    )

    @field_validator("checkpointing", mode="before")
    @classmethod
    def _are_groups(cls, value: object) -> object:
        """One name is a list of one. Before the type is looked at, whose faults would be told of each kind there is."""
        groups = [value] if value in cls.GROUPS else value
        wrong = [one for one in groups if one not in cls.GROUPS] if isinstance(groups, list | tuple) else []
        if wrong or not (groups == "auto" or isinstance(groups, list | tuple)):
            known = f"auto or a list of {', '.join(cls.GROUPS)}"
            raise ValueError(f"must be {known}" + (f", and {wrong[0]!r} is none of these" if wrong else ""))
        return groups


class GroundingDinoSettings(TeacherSettings):
    """Grounding DINO: boxes from class names."""

    GROUPS = ("backbone", "encoder", "decoder")

    classification_weight: float = Field(ge=0, description="of the focal loss over tokens")
    l1_weight: float = Field(ge=0, description="of the L1 loss on boxes")
    giou_weight: float = Field(ge=0, description="of the generalized IoU loss on boxes")
    denoising: int = Field(
        default=0, ge=0, le=1000, description="noised true boxes an image that the decoder is to mend; 0: none"
    )
    max_detections: int = Field(ge=1, le=MOST, description="boxes kept an image, best first")


class SamSettings(TeacherSettings):
    """SAM: masks from boxes and points."""

    GROUPS = ("encoder", "decoder")

    objects_per_image: int = Field(ge=1, le=MOST, description="objects of an image each time it is seen, taken in turn")
    box_jitter: float = Field(ge=0, le=0.5, description="std of a prompt box corner, in box sides")
    point_share: float = Field(ge=0, le=1, description="share of objects prompted by a point instead of a box")
    correction_clicks: int = Field(
        default=0, ge=0, le=8, description="clicks on what is wrong that follow each prompt, one an answer"
    )
    detector_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of boxes that are those of the tuned Grounding DINO, where it found the object",
    )
    focal_weight: float = Field(ge=0, description="of the focal loss on mask pixels")
    dice_weight: float = Field(ge=0, description="of the dice loss")
    iou_weight: float = Field(ge=0, description="of the error of the predicted IoU")


class PartConfig(ConfigModel):
    """One part of the data."""

    annotations: Uri = Field(description="COCO instances JSON or the folder of an export")
    images: Uri | None = Field(description="folder of the images; null: beside the annotations")


class SplitConfig(ConfigModel):
    """How one annotation file is divided, in percent of its images."""

    train: int = Field(description="to learn from")
    val: int = Field(description="to choose the best adapter on")
    test: int = Field(description="to measure on what neither learning nor choosing has seen")

    @model_validator(mode="after")
    def _divides(self) -> Self:
        SplitSpec(**self.model_dump())
        return self


class DataConfig(ConfigModel):
    """The data, and what its classes are called."""

    digest: str = Field(description="sha256 of the annotations, so that a change of the data is noticed")
    images_digest: str | None = Field(
        default=None,
        description="sha256 of what each listed image is, so that other images under the same names are noticed; "
        "null: not looked at",
    )
    images: int | None = Field(default=None, description="usable images, so that those that vanish are noticed")
    images_left_out: int = Field(default=0, ge=0, description="images beside these that inspection found unusable")
    classes: tuple[str, ...] = Field(description="class names; their order is the order of the prompt")
    prompts: dict[str, str] = Field(description="phrases shown to Grounding DINO instead of class names")
    source: PartConfig | None = Field(description="one annotation file, divided by `split`")
    split: SplitConfig | None = Field(description="percent of the images, stratified over classes")
    train: PartConfig | None = Field(description="parts of data that comes split")
    val: PartConfig | None = Field(description="the same, to choose the best adapter on")
    test: PartConfig | None = Field(description="the same, to measure on what nothing else has seen")
    group_by: str | None = Field(
        default=None, description="what images that a split keeps together have in common: Folder, Prefix:_, Field:name"
    )
    max_leaked_percent: int = Field(
        default=5, ge=0, le=100, description="images of val, or of test, that train may have as well, at most"
    )
    crowds: Crowds = Field(
        default=Crowds.IGNORE,
        description="annotations with iscrowd: 1 are regions to Ignore, neither learned nor wrong, or Objects",
    )
    exif_orientation: ExifOrientation = Field(
        default=ExifOrientation.AUTO,
        description="whether images were annotated as EXIF turns them (Applied) or as they are stored (Ignored), where "
        "their size does not show it; Auto: as the others",
    )
    max_skipped_percent: int = Field(
        default=20, ge=0, le=100, description="images that turn out to be unreadable are left out, up to so many"
    )


class StorageConfig(ConfigModel):
    """How object storage is reached; credentials come from the standard chain of each cloud."""

    endpoint_url: str | None = Field(description="of an S3-compatible store; null: AWS, or what the environment says")
    region: str | None = Field(description="of the buckets; null: what the AWS chain says")
    addressing_style: AddressingStyle | None = Field(
        default=None, description="of URLs: path, virtual or auto; null: what the environment says, else auto"
    )
    requester_pays: bool | None = Field(
        default=None, description="whether requests are paid for by whoever makes them; null: what the environment says"
    )
    ca_bundle: str | None = Field(
        default=None,
        description="file of the certificate authorities that are trusted; null: AWS_CA_BUNDLE, or the usual",
    )
    azure_account: str | None = Field(
        default=None, description="storage account of az:// containers; null: what the environment says"
    )
    google_project: str | None = Field(
        default=None, description="project that pays for requests to gs:// buckets; null: what the environment says"
    )


class TrainingConfig(ConfigModel):
    """What holds for every teacher of the run."""

    seed: int = Field(ge=0, le=2**63 - 1, description="of all random choices")
    precision: Precision = Field(description="auto: bfloat16 where the hardware has it")
    patience: int = Field(ge=0, le=MOST, description="evaluations without a better AP before stopping; 0: never")
    class_balance: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="exponent of how much more often images of rare classes are shown, at most 4 times; 0: not at all",
    )
    retention: PartConfig | None = Field(
        default=None,
        description="labelled images of other things, to measure what is left of the base's skill; null: built-in ones",
    )
    on_no_gain: OnNoGain = Field(
        default=OnNoGain.PUBLISH,
        description="an adapter that is not better than its base: Publish it with a warning, or publish it and Fail",
    )
    workers: int | None = Field(
        ge=0,
        le=256,
        description="processes that decode and augment; 0: the training process itself; null: one a core, at most 8",
    )
    features_gb: float = Field(
        default=20.0,
        ge=0,
        description="disk for what the parts that are not adapted make of the images, at most half of what is free; 0: "
        "it is computed each time",
    )
    log_seconds: float = Field(gt=0, description="at most one progress line in this time")
    hang_seconds: float = Field(
        default=900.0,
        gt=0,
        description="training that does nothing for so long, and for ten of its longest steps, is ended",
    )


class TeachersConfig(ConfigModel):
    """The teachers that are tuned."""

    grounding_dino: GroundingDinoSettings | None = Field(default=None, description="boxes from class names")
    sam: SamSettings | None = Field(default=None, description="masks from boxes and points")

    def of(self, name: TeacherName) -> TeacherSettings | None:
        """The settings of one teacher; None if it is not tuned."""
        settings: TeacherSettings | None = getattr(self, name.slug)
        return settings

    @property
    def names(self) -> tuple[TeacherName, ...]:
        """The teachers that are tuned, boxes before masks."""
        return tuple(name for name in TeacherName if self.of(name) is not None)


class RunConfig(ConfigModel):
    """Everything that decides what a run does."""

    name: OneName = Field(description="name of the request")
    run_id: OneName = Field(description="the same request on the same data has the same run id")
    output: Uri = Field(description="artifacts go to <output>/<name>/<run_id>/")
    storage: StorageConfig = Field(description="how object storage is reached")
    data: DataConfig = Field(description="what is learned from, and what its classes are called")
    augmentation: AugmentationSpec = Field(description="what images may look like in use")
    training: TrainingConfig = Field(description="what holds for every teacher")
    teachers: TeachersConfig = Field(description="what is tuned, and how")

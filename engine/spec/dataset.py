"""Section ``dataset`` of the spec: location, splits and policy for problems."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from engine.spec.base import SpecModel, Uri
from engine.text.pydantic_errors import form

GroupBy = Annotated[
    str,
    StringConstraints(
        max_length=80,
        pattern=form(
            r"^(Folder|Prefix:[^\x00-\x1f/]{1,8}|Field:[A-Za-z0-9_.-]{1,64})$",
            "Folder, Prefix: and a separator, such as Prefix:_, or Field: and a name, such as Field:video_id",
        ),
    ),
]
"""Criterion for images that belong together: see :class:`engine.dataset.splits.leaks.Grouping`."""


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


TRAIN_PERCENT, VAL_PERCENT = 80, 20
"""Default division without a test split."""


class SplitSpec(SpecModel):
    """Division of one annotation file, in percent of its images, stratified over classes."""

    train: int = Field(default=TRAIN_PERCENT, ge=1, le=99, description="Percent of the images for training.")
    val: int = Field(default=VAL_PERCENT, ge=1, le=99, description="Percent for selecting the best adapter.")
    test: int = Field(default=0, ge=0, le=98, description="Percent used neither for training nor for selection.")
    folds: int | None = Field(
        default=None,
        ge=2,
        le=10,
        description="Cross-validation in place of train and val: the images, except test, are divided into this many "
        "folds; each is the validation split of one training, and a last training on all of them is published.",
    )

    @property
    def shares(self) -> dict[str, int]:
        """Percent of the images in train, val and test; with folds, in one of the trainings."""
        if self.folds is None:
            return {"train": self.train, "val": self.val, "test": self.test}
        val = max(1, round((100 - self.test) / self.folds))
        return {"train": 100 - self.test - val, "val": val, "test": self.test}

    @model_validator(mode="after")
    def _sums_to_100(self) -> Self:
        total = self.train + self.val + self.test
        if self.folds is not None:
            if (self.train, self.val) != (TRAIN_PERCENT, VAL_PERCENT):
                raise ValueError("folds replaces train and val: leave them out")
        elif total != 100:
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
        folds = self.split is not None and self.split.folds is not None
        if self.train is not None and self.val is None and not folds:
            raise ValueError("dataset.train needs dataset.val too: the best adapter is selected on it")
        if folds and self.val is not None:
            raise ValueError(
                "dataset.split.folds takes its validation images from dataset.train: leave out dataset.val"
            )
        if self.train is None and (self.val is not None or self.test is not None):
            raise ValueError("dataset.val and dataset.test go with dataset.train, not with dataset.annotations")
        if self.train is not None and self.split is not None and not (folds and self.split.test == 0):
            raise ValueError("dataset.split divides dataset.annotations; dataset.train is split already")
        return self

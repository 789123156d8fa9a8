"""Training images with labels of teachers, next to those with human labels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from engine.config.model import LabelsConfig
from engine.dataset import ImageFolder
from engine.dataset.checks.problems import EXAMPLES, too_many
from engine.dataset.checks.unreadable_images import Unreadable, find_unreadable
from engine.dataset.images.thumbnail_cache import thumbnails_of
from engine.dataset.predictions import load_predictions
from engine.dataset.splits.groups import split_images
from engine.dataset.splits.leaks import Kind, SplitImages, leaks_of
from engine.dataset.teacher_labels import teacher_labels
from engine.dataset.types import CocoDataset
from engine.errors import DataError
from engine.storage import Storage, parent
from engine.training.data.annotated_splits import SplitData

PREFIX = "labels/"
"""Begins the names of these images, which may be those of human labels too."""


@dataclass(frozen=True)
class LeftOut:
    """Images with labels of teachers that are not learned.

    Attributes:
        images: Number of all images with labels of teachers.
        unusable: Problems of those that cannot be decoded, or whose size differs from the labels.
        human: Number of those that have human labels too: the same file or the same bytes.
        evaluated: Number of those that show the picture of an image of the validation or test split.
    """

    images: int
    unusable: tuple[str, ...] = ()
    human: int = 0
    evaluated: int = 0

    @property
    def total(self) -> int:
        """Number of images that are left out."""
        return len(self.unusable) + self.human + self.evaluated


@dataclass(frozen=True)
class TeacherLabelled:
    """Images with labels of teachers, which may not be downloaded yet.

    Attributes:
        where: File of the labels.
        dataset: The labels.
        folder: The images.
        cache: Cache folder for images.
    """

    where: str
    dataset: CocoDataset
    folder: ImageFolder
    cache: Path

    @classmethod
    def of(cls, config: LabelsConfig, classes: tuple[str, ...], *, storage: Storage, cache: Path) -> TeacherLabelled:
        """Read the labels.

        Raises:
            DataError: They are not those that were planned, have no scores, or no class of the dataset.
            StorageError: A file is unavailable.
        """
        where = config.annotations
        digest = hashlib.sha256(storage.read_bytes(where)).hexdigest()
        if digest != config.digest:
            raise DataError(
                f"{where} has changed since the run was planned (sha256 {config.digest[:12]}… then, {digest[:12]}… "
                "now): start again from the manifest, which creates another run"
            )
        found = load_predictions(where, storage=storage)
        dataset = teacher_labels(found, classes, min_score=config.min_score, soft=config.soft_scores, where=where)
        if not dataset.images:
            raise DataError(f"{where} has no images: label some")
        folder = ImageFolder(config.images or parent(where), storage=storage, cache=cache)
        return cls(where, dataset, folder, cache)

    def fetch(
        self, human: Mapping[str, SplitImages], check: Callable[[], None] = lambda: None, *, max_percent: int = 100
    ) -> tuple[SplitData, LeftOut]:
        """Fetch the images, and return those to learn, with the numbers of the others.

        Images with human labels, by file or bytes, are left out. So are those that show the picture of an image of the
        validation or test split, so that none of these is learned; pictures like those of the training split are kept.

        Args:
            human: Properties of the images of all splits. Without ``val``, ``train`` is validated by cross-validation.
            check: Is called regularly meanwhile.
            max_percent: Maximum percentage of the images that may be unusable.

        Raises:
            DataError: More are unusable, or no image is left.
        """
        paths = tuple(self.folder.path(image) for image in self.dataset.images)
        unreadable: Unreadable = find_unreadable(
            self.dataset, self.folder, paths, masks=False, cache=self.cache, check=check
        )
        names = [image.file_name for image in self.dataset.images]
        thumbnails = partial(thumbnails_of, cache=self.cache, check=check)
        own = split_images(names, self.folder, thumbnails=thumbnails(self.dataset.images, self.folder))
        usable = [name for name in names if name not in unreadable.faults]
        known = _with_human_labels(own, human)
        evaluated = _evaluated(own, human) - known
        left_out = LeftOut(
            len(names),
            tuple(unreadable.faults.values()),
            human=sum(name in known for name in usable),
            evaluated=sum(name in evaluated for name in usable),
        )
        self._check_enough(left_out, max_percent)
        split = SplitData(self.dataset, paths).without(unreadable)
        kept = [i for i, image in enumerate(split.dataset.images) if image.file_name not in known | evaluated]
        return split.subset(kept), left_out

    def _check_enough(self, left_out: LeftOut, max_percent: int) -> None:
        count = len(left_out.unusable)
        if too_many(count, left_out.images, max_percent):
            raise DataError(
                f"{count:,} of {left_out.images:,} images with labels of {self.where} cannot be used, more than the "
                f"{max_percent} % that may be left out (dataset.onProblem, dataset.maxSkippedPercent): "
                f"{'; '.join(left_out.unusable[:EXAMPLES])}"
            )
        if left_out.total == left_out.images:
            raise DataError(
                f"no image with labels of {self.where} is left to learn: of {left_out.images:,}, {count:,} cannot be "
                f"used, {left_out.human:,} have human labels, and {left_out.evaluated:,} show pictures of the "
                "validation or test split. Label other images, or train with human labels alone (no unlabelled)"
            )


def _with_human_labels(own: SplitImages, human: Mapping[str, SplitImages]) -> set[str]:
    """Return the names of images that are the same file as an image of any split, or have its bytes."""
    leaks = leaks_of("labels", replace(own, thumbnails=None), human)
    return {leak.name for leak in leaks if leak.kind in (Kind.FILE, Kind.BYTES)}


def _evaluated(own: SplitImages, human: Mapping[str, SplitImages]) -> set[str]:
    """Return the names of images that are the same as one that the student is evaluated on, in any way."""
    measured = {name: images for name, images in human.items() if name != "train" or "val" not in human}
    return {leak.name for leak in leaks_of("labels", own, measured)}


def joined(human: SplitData, labelled: SplitData) -> SplitData:
    """Return the images with human labels, then those with labels of teachers, whose names get a prefix."""
    renamed = tuple(replace(image, file_name=f"{PREFIX}{image.file_name}") for image in labelled.dataset.images)
    dataset = replace(
        human.dataset,
        images=human.dataset.images + renamed,
        annotations=human.dataset.annotations + labelled.dataset.annotations,
    )
    return SplitData(dataset, human.paths + labelled.paths)

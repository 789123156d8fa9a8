"""Training images with labels of teachers, next to those with human labels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from engine.config.model import LabelsConfig
from engine.dataset import ImageFolder
from engine.dataset.checks.unreadable_images import Unreadable, find_unreadable
from engine.dataset.images.thumbnail_cache import thumbnails_of
from engine.dataset.predictions import load_predictions
from engine.dataset.splits.groups import split_images
from engine.dataset.splits.leaks import SplitImages, leaks_of
from engine.dataset.teacher_labels import teacher_labels
from engine.dataset.types import CocoDataset
from engine.errors import DataError
from engine.storage import Storage, parent
from engine.training.data.annotated_splits import SplitData

PREFIX = "labels/"
"""Begins the names of these images, which may be those of human labels too."""


@dataclass(frozen=True)
class TeacherLabelled:
    """Images with labels of teachers, which may not be downloaded yet.

    Attributes:
        dataset: The labels.
        folder: The images.
        cache: Cache folder for images.
    """

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
        dataset = teacher_labels(found, classes, min_score=config.min_score, where=where)
        if not dataset.images:
            raise DataError(f"{where} has no images: label some")
        folder = ImageFolder(config.images or parent(where), storage=storage, cache=cache)
        return cls(dataset, folder, cache)

    def fetch(self, human: Mapping[str, SplitImages], check: Callable[[], None] = lambda: None) -> SplitData:
        """Fetch the images, and return those that have no human labels and can be read.

        Args:
            human: Properties of the images of all splits: copies of theirs are left out, so that no image of the
                validation or test split is learned.
            check: Is called regularly meanwhile.
        """
        paths = tuple(self.folder.path(image) for image in self.dataset.images)
        unreadable: Unreadable = find_unreadable(
            self.dataset, self.folder, paths, masks=False, cache=self.cache, check=check
        )
        names = [image.file_name for image in self.dataset.images]
        thumbnails = partial(thumbnails_of, cache=self.cache, check=check)
        own = split_images(names, self.folder, thumbnails=thumbnails(self.dataset.images, self.folder))
        taken = {leak.name for leak in leaks_of("labels", own, human)}
        split = SplitData(self.dataset, paths).without(unreadable)
        return split.subset([i for i, image in enumerate(split.dataset.images) if image.file_name not in taken])


def joined(human: SplitData, labelled: SplitData) -> SplitData:
    """Return the images with human labels, then those with labels of teachers, whose names get a prefix."""
    renamed = tuple(replace(image, file_name=f"{PREFIX}{image.file_name}") for image in labelled.dataset.images)
    dataset = replace(
        human.dataset,
        images=human.dataset.images + renamed,
        annotations=human.dataset.annotations + labelled.dataset.annotations,
    )
    return SplitData(dataset, human.paths + labelled.paths)

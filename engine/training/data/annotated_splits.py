"""Splits of a run by their annotations: load, check and divide them, and fetch their images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from engine.config import DataConfig
from engine.dataset import CocoDataset, ImageFolder, Sample, SplitFiles, find_splits, load_sample, load_split
from engine.dataset.checks.unreadable_images import Unreadable, check_few, find_unreadable, names_of
from engine.dataset.images.digest import together
from engine.dataset.images.exif_orientation import Evidence, Frames
from engine.dataset.splits.divide import divide, images_with_objects
from engine.dataset.splits.leaks import SplitImages
from engine.dataset.splits.stratify import stratified_folds
from engine.dataset.types import Frame
from engine.errors import DataError
from engine.spec import ExifOrientation
from engine.storage import Storage
from engine.text.safe_text import listed
from engine.training.data.shared_images import groups, identify_images

Known = Callable[[Callable[[], None]], SplitImages]
"""Opens the images of a split, calling its argument regularly, and returns the properties that identify them."""


@dataclass(frozen=True)
class SplitData:
    """One split of the data; ``paths`` are its images, in the dataset's order."""

    dataset: CocoDataset
    paths: tuple[Path, ...]

    def sample(self, index: int, *, with_masks: bool, select: NDArray[np.int64] | None = None) -> Sample:
        """Return one decoded image with its objects, or with those at the indices ``select``."""
        return load_sample(self.dataset, index, self.paths[index], with_masks=with_masks, select=select)

    def subset(self, indices: list[int]) -> SplitData:
        """Return the images at ``indices``, in that order."""
        return SplitData(self.dataset.subset(indices), tuple(self.paths[i] for i in indices))

    def part(self, images: int) -> SplitData:
        """Return at most this many images, evenly over the split."""
        count = len(self.paths)
        if count <= images:
            return self
        some = [i * count // images for i in range(images)]
        return self.subset(some)

    def without(self, unreadable: Unreadable, frame: Frame = Frame.UPRIGHT) -> SplitData:
        """Return the split without unreadable images and objects; ``frame`` is for images that do not show theirs."""
        names, annotations = names_of(self.dataset), self.dataset.annotations
        good = [i for i, name in enumerate(names) if name not in unreadable.faults]
        kept = tuple(
            tuple(found for k, found in enumerate(annotations[i]) if k not in unreadable.outside.get(names[i], ()))
            for i in good
        )
        return SplitData(
            replace(self.dataset.subset(good), annotations=kept, frame=frame), tuple(self.paths[i] for i in good)
        )


@dataclass(frozen=True)
class AnnotatedSplits:
    """The data of a run by its annotations, checked and divided; images may not be downloaded yet.

    Attributes:
        config: Data section of the configuration.
        whole: Splits with all their images by name: ``train``, ``val`` and, if configured, ``test``.
        folders: Image folder of each split.
        masks: Whether the model learns masks alone.
        decoded: Whether masks are decoded, if there are any.
        cache: Cache folder for images.
        images_digest: The fingerprint of all listed images.
        known: Functions that open the images of each split and return the properties that identify equal images.
        folds: File names of the images of each fold of a cross-validation, which divide ``train``; there is no ``val``.
    """

    config: DataConfig
    whole: Mapping[str, SplitData]
    folders: Mapping[str, ImageFolder]
    masks: bool
    decoded: bool
    cache: Path
    images_digest: str = ""
    known: Mapping[str, Known] = field(default_factory=dict)
    folds: tuple[frozenset[str], ...] = ()

    @classmethod
    def of(
        cls, config: DataConfig, *, masks: bool, seed: int, storage: Storage, cache: Path, decoded: bool = False
    ) -> Self:
        """Load, divide and check the annotations.

        Args:
            config: Data section of the configuration.
            masks: Whether the model learns masks alone. If so, images without a mask are left out of the training
                split: they have no loss. For boxes they are negative examples.
            seed: Seed of the split.
            storage: Source of annotations and images.
            cache: Cache folder for images.
            decoded: Whether masks are decoded, if there are any: also true for boxes with masks.

        Raises:
            DataError: The annotations are not those that were inspected, an image is missing, or a split has no
                objects to learn or to find.
            StorageError: A file is unavailable.
        """
        files = split_files(config, storage)
        uris = {file.images for file in files.values()}
        folders = {uri: ImageFolder(uri, storage=storage, cache=cache) for uri in uris}
        loaded = {
            name: load_split(file, storage=storage, folder=folders[file.images], crowds=config.crowds)
            for name, file in files.items()
        }
        _check_digest(config, [dataset.digest for dataset in loaded.values()])
        images_digest = together([dataset.images_digest for dataset in loaded.values()])
        _check_images(config, sum(map(len, loaded.values())), images_digest)
        datasets = {name: dataset.with_classes(config.classes) for name, dataset in loaded.items()}
        read_identity = partial(identify_images, config=config, storage=storage, cache=cache)
        undivided = "all" if "all" in datasets else "train"
        if "all" in datasets or (config.split is not None and config.split.folds is not None):
            whole_images = read_identity(datasets[undivided], folders[files[undivided].images], files[undivided])
        if "all" in datasets:
            datasets = _divided(datasets["all"], config, seed=seed, images=whole_images)
        folds: tuple[frozenset[str], ...] = ()
        if config.split is not None and config.split.folds is not None:
            folds = _folds(datasets["train"], config.split.folds, seed=seed, images=whole_images)
        for name in ("train",) if folds else ("train", "val"):
            check_has_objects(f"{name} split", datasets.get(name), config, masks=masks)
        if masks and not folds:
            datasets["train"] = datasets["train"].subset(images_with_objects(datasets["train"], masks=True))
        image_folders = {name: folders[(files.get(name) or files["all"]).images] for name in datasets}
        whole = {
            name: SplitData(dataset, tuple(image_folders[name].path(image) for image in dataset.images))
            for name, dataset in datasets.items()
        }
        known: dict[str, Known] = {
            name: partial(_known, read_identity, dataset, image_folders[name], files[name])
            if name in files
            else partial(_selected, whole_images, dataset)
            for name, dataset in datasets.items()
        }
        return cls(config, whole, image_folders, masks, masks or decoded, cache, images_digest, known, folds)

    def fetch_images(
        self, name: str, check: Callable[[], None] = lambda: None, *, frame: Frame = Frame.UPRIGHT
    ) -> Unreadable:
        """Fetch the images of a split to the disk, and return the unusable ones: see :func:`find_unreadable`."""
        split = self.whole[name]
        dataset = replace(split.dataset, frame=frame)
        return find_unreadable(
            dataset, self.folders[name], split.paths, masks=self.decoded, cache=self.cache, check=check
        )

    def frame(self, unreadable: Mapping[str, Unreadable]) -> Frame:
        """Return the frame of EXIF-rotated images whose size does not show it: that of the others of all splits."""
        return self.frames(unreadable).frame(self.config.exif_orientation)

    def frames(self, unreadable: Mapping[str, Unreadable]) -> Frames:
        """Return the evidence of some splits' images about the frame that they were annotated in."""
        return sum((one.frames for one in unreadable.values()), Frames())

    def settled(
        self, unreadable: Mapping[str, Unreadable], check: Callable[[], None] = lambda: None
    ) -> dict[str, Unreadable]:
        """Return the unusable images and objects of some splits, now that the frame is known.

        For images without a size in the annotations, the frame determines which objects lie outside.
        """
        frame = self.frame(unreadable)
        return {
            name: self.fetch_images(name, check, frame=frame)
            if frame is not Frame.UPRIGHT and one.frames.of(Evidence.UNSIZED)
            else one
            for name, one in unreadable.items()
        }

    def undecided(self, unreadable: Mapping[str, Unreadable]) -> bool:
        """Return whether the frame of these splits depends on images of another split."""
        frames = self.frames(unreadable)
        return self.config.exif_orientation is ExifOrientation.AUTO and frames.unproven > 0

    def usable(self, unreadable: Mapping[str, Unreadable]) -> dict[str, SplitData]:
        """Return some splits without their unusable images and objects.

        Raises:
            DataError: Too many images are unusable, or a split has no objects left.
        """
        check_few(
            self.skipped(unreadable),
            sum(len(split.dataset) for split in self.whole.values()),
            max_percent=self.config.max_skipped_percent,
            earlier=self.config.images_left_out,
        )
        frame = self.frame(unreadable)
        splits = {
            name: split.without(unreadable[name], frame) for name, split in self.whole.items() if name in unreadable
        }
        for name in ("train", "val"):
            if name in splits:
                check_has_objects(f"{name} split", splits[name].dataset, self.config, masks=self.masks)
        return splits

    def skipped(self, unreadable: Mapping[str, Unreadable]) -> Unreadable:
        """Return the unusable images of some splits together."""
        together = Unreadable()
        for name in self.whole:
            for image, fault in unreadable[name].faults.items() if name in unreadable else ():
                together.faults[f"{name}: {image}" if image in together.faults else image] = fault
        pages = sum(one.pages for one in unreadable.values())
        return replace(together, frames=self.frames(unreadable), pages=pages)


def _divided(dataset: CocoDataset, config: DataConfig, *, seed: int, images: SplitImages) -> dict[str, CocoDataset]:
    """Return the splits of undivided data; with folds, ``train`` has all images but those of ``test``."""
    assert config.split is not None  # noqa: S101 - the configuration has it with a single file
    percent = config.split.model_dump(include={"train", "val", "test"})
    if config.split.folds is not None and not config.split.test:
        return {"train": dataset}
    shares = {name: share / 100 for name, share in percent.items()}
    datasets = divide(dataset, shares, seed=seed, groups=groups(images))
    if config.split.folds is not None:
        tested = {image.file_name for image in datasets["test"].images}
        rest = [index for index, image in enumerate(dataset.images) if image.file_name not in tested]
        return {"train": dataset.subset(rest), "test": datasets["test"]}
    return datasets


def _folds(dataset: CocoDataset, folds: int, *, seed: int, images: SplitImages) -> tuple[frozenset[str], ...]:
    """Return the file names of the images of each fold; images that belong together are in one fold."""
    names = [image.file_name for image in dataset.images]
    divided = stratified_folds(dataset, folds, seed=seed, groups=groups(images.select(names)))
    return tuple(frozenset(names[index] for index in fold) for fold in divided)


def _selected(whole: SplitImages, dataset: CocoDataset, check: Callable[[], None]) -> SplitImages:
    check()
    return whole.select([image.file_name for image in dataset.images])


def _known(
    read_identity: Callable[..., SplitImages],
    dataset: CocoDataset,
    folder: ImageFolder,
    file: SplitFiles,
    check: Callable[[], None],
) -> SplitImages:
    return read_identity(dataset, folder, file, check=check)


def check_has_objects(name: str, dataset: CocoDataset | None, data: DataConfig, *, masks: bool) -> None:
    """Raise DataError if a split has nothing to learn or to find."""
    if dataset is None or not images_with_objects(dataset, masks=masks):
        what = "masks" if masks else "objects"
        raise DataError(f"the {name} has no {what} of the classes {listed(data.classes)}: annotate some")


def split_files(data: DataConfig, storage: Storage) -> dict[str, SplitFiles]:
    """Return the files of each split; for undivided data those of ``all``."""
    if data.source is not None:
        return find_splits(data.source.annotations, data.source.images, storage=storage)
    given = {name: getattr(data, name) for name in ("train", "val", "test")}
    return {
        name: next(iter(find_splits(split.annotations, split.images, storage=storage).values()))
        for name, split in given.items()
        if split is not None
    }


def _check_digest(data: DataConfig, digests: list[str]) -> None:
    """Check that the annotations are those that were inspected."""
    digest = together(digests)
    if digest != data.digest:
        raise DataError(
            f"the annotations have changed since they were inspected (sha256 {data.digest} then, {digest} now): "
            "start again from the manifest, so that the configuration follows from the new data"
        )


def _check_images(data: DataConfig, images: int, digest: str) -> None:
    """Check that no image was removed or replaced since the inspection: the annotations do not show that."""
    if data.images is not None and images != data.images:
        raise DataError(
            f"{data.images:,} images were usable when the data was inspected, and {images:,} are now: restore the "
            "missing images, or start again from the manifest, which counts the skipped ones"
        )
    if data.images_digest is not None and digest != data.images_digest:
        raise DataError(
            "images have changed since they were inspected, under the same names and annotations (fingerprint "
            f"{data.images_digest[:12]}… then, {digest[:12]}… now): restore them, or start again from the "
            "manifest, which creates another run of the new data"
        )

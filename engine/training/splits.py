"""Training, validation and test split of a run, with their images on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from engine.config import DataConfig
from engine.dataset import CocoDataset, ImageFolder, PartFiles, Sample, find_parts, load_part, load_sample
from engine.dataset.checks.unreadable_images import Unreadable, check_few, find_unreadable, names_of
from engine.dataset.images.digest import together
from engine.dataset.images.exif_orientation import Evidence, Frames
from engine.dataset.splits.leaks import PartImages
from engine.dataset.splits.split import split_dataset
from engine.dataset.types import Frame
from engine.errors import DataError
from engine.results.types import SplitCheck
from engine.spec import ExifOrientation
from engine.storage import Storage
from engine.text.safe_text import listed
from engine.training.shared_images import check_shared, groups, known_images

Known = Callable[[Callable[[], None]], PartImages]
"""Opens the images of a split, calling its argument regularly, and returns the properties that identify them."""


@dataclass(frozen=True)
class SplitData:
    """One split of the data; ``paths`` are its images, in the dataset's order."""

    dataset: CocoDataset
    paths: tuple[Path, ...]

    def sample(self, index: int, *, with_masks: bool, select: NDArray[np.int64] | None = None) -> Sample:
        """Return one decoded image with its objects, or with those at the indices ``select``."""
        return load_sample(self.dataset, index, self.paths[index], with_masks=with_masks, select=select)

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
class Data:
    """The data of a run by its annotations, checked and divided; images may not be downloaded yet.

    Attributes:
        config: Data section of the configuration.
        whole: Splits with all their images by name: ``train``, ``val`` and, if configured, ``test``.
        folders: Image folder of each split.
        masks: Whether the teacher learns masks.
        cache: Cache folder for images.
        images_digest: The fingerprint of all listed images.
        known: Functions that open the images of each split and return the properties that identify equal images.
    """

    config: DataConfig
    whole: Mapping[str, SplitData]
    folders: Mapping[str, ImageFolder]
    masks: bool
    cache: Path
    images_digest: str = ""
    known: Mapping[str, Known] = field(default_factory=dict)

    @classmethod
    def of(cls, config: DataConfig, *, masks: bool, seed: int, storage: Storage, cache: Path) -> Self:
        """Load, divide and check the annotations.

        Args:
            config: Data section of the configuration.
            masks: Whether the teacher learns masks. If so, images without a mask are left out of the training split:
                they have no loss. For boxes they are negative examples.
            seed: Seed of the split.
            storage: Source of annotations and images.
            cache: Cache folder for images.

        Raises:
            DataError: The annotations are not those that were inspected, an image is missing, or a split has no
                objects to learn or to find.
            StorageError: A file is unavailable.
        """
        files = _files(config, storage)
        uris = {file.images for file in files.values()}
        folders = {uri: ImageFolder(uri, storage=storage, cache=cache) for uri in uris}
        loaded = {
            name: load_part(file, storage=storage, folder=folders[file.images], crowds=config.crowds)
            for name, file in files.items()
        }
        _check_digest(config, [dataset.digest for dataset in loaded.values()])
        images_digest = together([dataset.images_digest for dataset in loaded.values()])
        _check_images(config, sum(map(len, loaded.values())), images_digest)
        datasets = {name: dataset.with_classes(config.classes) for name, dataset in loaded.items()}
        look = partial(known_images, config=config, storage=storage, cache=cache)
        if "all" in datasets:
            whole_images = look(datasets["all"], folders[files["all"].images], files["all"])
            datasets = _divided(datasets["all"], config, seed=seed, groups=groups(whole_images))
        for name in ("train", "val"):
            _check_useful(name, datasets.get(name), config, masks=masks)
        if masks:
            datasets["train"] = datasets["train"].subset(useful(datasets["train"], masks=True))
        of_parts = {name: folders[(files.get(name) or files["all"]).images] for name in datasets}
        whole = {
            name: SplitData(dataset, tuple(of_parts[name].path(image) for image in dataset.images))
            for name, dataset in datasets.items()
        }
        known: dict[str, Known] = {
            name: partial(_known, look, dataset, of_parts[name], files[name])
            if name in files
            else partial(_selected, whole_images, dataset)
            for name, dataset in datasets.items()
        }
        return cls(config, whole, of_parts, masks, cache, images_digest, known)

    def bring(self, name: str, check: Callable[[], None] = lambda: None, *, frame: Frame = Frame.UPRIGHT) -> Unreadable:
        """Fetch the images of a split to the disk, and return the unusable ones: see :func:`find_unreadable`."""
        part = self.whole[name]
        dataset = replace(part.dataset, frame=frame)
        return find_unreadable(dataset, self.folders[name], part.paths, masks=self.masks, cache=self.cache, check=check)

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
            name: self.bring(name, check, frame=frame)
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
            sum(len(part.dataset) for part in self.whole.values()),
            max_percent=self.config.max_skipped_percent,
            earlier=self.config.images_left_out,
        )
        frame = self.frame(unreadable)
        parts = {name: part.without(unreadable[name], frame) for name, part in self.whole.items() if name in unreadable}
        for name in ("train", "val"):
            if name in parts:
                _check_useful(name, parts[name].dataset, self.config, masks=self.masks)
        return parts

    def skipped(self, unreadable: Mapping[str, Unreadable]) -> Unreadable:
        """Return the unusable images of some splits together."""
        together = Unreadable()
        for name in self.whole:
            for image, fault in unreadable[name].faults.items() if name in unreadable else ():
                together.faults[f"{name}: {image}" if image in together.faults else image] = fault
        pages = sum(one.pages for one in unreadable.values())
        return replace(together, frames=self.frames(unreadable), pages=pages)


@dataclass(frozen=True)
class Splits:
    """The data of a run, with its images on the disk.

    Attributes:
        train: Training split.
        val: Validation split, to choose the best adapter.
        test: Test split, if configured.
        unreadable: Unusable images, which are in no split.
        objects_skipped: Objects outside their image, those of images that cannot be used, and those whose box and mask
            contradict each other.
        images_digest: The fingerprint of all listed images, of all splits.
        shared: Numbers of images in several splits.
        marks: By split and file name, a value that changes with the bytes of an image.
    """

    train: SplitData
    val: SplitData
    test: SplitData | None
    unreadable: Unreadable = field(default_factory=Unreadable)
    objects_skipped: int = 0
    images_digest: str = ""
    shared: SplitCheck | None = None
    marks: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, data: Data, here: Mapping[str, Unreadable] | None = None, check: Callable[[], None] = lambda: None
    ) -> Self:
        """Return all splits of ``data``, and fetch their images to the disk.

        Args:
            data: Annotations of the run, divided into splits.
            here: Unusable images of the splits that were fetched before.
            check: Is called regularly meanwhile, in several threads; an exception ends the call.

        Raises:
            DataError: Too many images are unusable, or a split has no objects left.
            StorageError: A file is unavailable.
        """
        unreadable = {name: data.bring(name, check) for name in data.whole if name not in (here or {})}
        unreadable = data.settled(unreadable | dict(here or {}), check)
        parts, skipped = data.usable(unreadable), data.skipped(unreadable)
        lost = _objects(data.whole.values()) - _objects(parts.values())
        contradictory = {part.dataset.digest: part.dataset.contradictory for part in data.whole.values()}  # by file
        known = {name: look(check) for name, look in data.known.items()}
        shared = check_shared(known, max_percent=data.config.max_leaked_percent)
        return cls(
            parts["train"],
            parts["val"],
            parts.get("test"),
            unreadable=skipped,
            objects_skipped=lost + sum(contradictory.values()),
            images_digest=data.images_digest,
            shared=shared,
            marks={name: dict(zip(one.names, one.marks, strict=False)) for name, one in known.items()},
        )


def _selected(whole: PartImages, dataset: CocoDataset, check: Callable[[], None]) -> PartImages:
    check()
    return whole.select([image.file_name for image in dataset.images])


def _known(
    look: Callable[..., PartImages],
    dataset: CocoDataset,
    folder: ImageFolder,
    file: PartFiles,
    check: Callable[[], None],
) -> PartImages:
    return look(dataset, folder, file, check=check)


def _objects(parts: Iterable[SplitData]) -> int:
    return sum(len(objects) for part in parts for objects in part.dataset.annotations)


def _check_useful(name: str, dataset: CocoDataset | None, data: DataConfig, *, masks: bool) -> None:
    if dataset is None or not useful(dataset, masks=masks):
        what = "masks" if masks else "objects"
        raise DataError(f"the {name} part has no {what} of the classes {listed(data.classes)}: annotate some")


def _divided(dataset: CocoDataset, data: DataConfig, *, seed: int, groups: Sequence[int]) -> dict[str, CocoDataset]:
    assert data.split is not None  # noqa: S101 - the configuration has it with a single file
    shares = {name: percent / 100 for name, percent in data.split.model_dump().items()}
    split = split_dataset(dataset, shares, seed=seed, groups=groups)
    indices = {name: list(getattr(split, name)) for name in shares}
    for masks in (False, True):
        _share_out(indices, set(useful(dataset, masks=masks)), groups)
    return {name: dataset.subset(chosen) for name, chosen in indices.items() if chosen}


def _share_out(indices: dict[str, list[int]], wanted: set[int], groups: Sequence[int]) -> None:
    """Move images so that both the training and the validation split have a wanted one, if there are enough.

    By chance, a few wanted images may all be in one split: the smallest group with one of them moves, in exchange for a
    group that is not larger. Groups stay together.

    Args:
        indices: Image indices of each split; changed in place.
        wanted: Images of which both splits need one.
        groups: Group of each image.
    """
    for name, others in (("val", ("test", "train")), ("train", ("test", "val"))):
        if any(image in wanted for image in indices[name]):
            continue
        for other in others:
            spare = _grouped([image for image in indices[other] if image in wanted], groups)
            if len(spare) > (other != "test"):
                moved = min(reversed(spare), key=lambda group: sum(groups[image] == group for image in indices[other]))
                size = _move(moved, indices[other], indices[name], groups)
                others_of_name = _grouped([image for image in indices[name] if groups[image] != moved], groups)
                fits = [one for one in others_of_name if sum(groups[image] == one for image in indices[name]) <= size]
                if fits:
                    _move(fits[-1], indices[name], indices[other], groups)
                break
    for part in indices.values():
        part.sort()


def _grouped(images: Sequence[int], groups: Sequence[int]) -> list[int]:
    """Return the groups of some images, each once, in the order of their last image."""
    return list(dict.fromkeys(groups[image] for image in reversed(images)))[::-1]


def _move(group: int, source: list[int], target: list[int], groups: Sequence[int]) -> int:
    """Move a group from one split to another and return its number of images."""
    moved = [image for image in source if groups[image] == group]
    source[:] = [image for image in source if groups[image] != group]
    target += moved
    return len(moved)


def useful(dataset: CocoDataset, *, masks: bool) -> list[int]:
    """Return the indices of images with an object that can be learned or found: crowds do not count."""
    return [
        index
        for index, objects in enumerate(dataset.annotations)
        if any(not found.iscrowd and (not masks or found.segmentation) for found in objects)
    ]


def _files(data: DataConfig, storage: Storage) -> dict[str, PartFiles]:
    """Return the files of each split; for undivided data those of ``all``."""
    if data.source is not None:
        return find_parts(data.source.annotations, data.source.images, storage=storage)
    given = {name: getattr(data, name) for name in ("train", "val", "test")}
    return {
        name: next(iter(find_parts(part.annotations, part.images, storage=storage).values()))
        for name, part in given.items()
        if part is not None
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
            f"{data.images:,} images could be used when the data was inspected, and {images:,} are there now: bring "
            "back what is gone, or start again from the manifest, so that what is left out is counted"
        )
    if data.images_digest is not None and digest != data.images_digest:
        raise DataError(
            "images have changed since they were inspected, under the same names and annotations (fingerprint "
            f"{data.images_digest[:12]}… then, {digest[:12]}… now): bring them back as they were, or start again from "
            "the manifest, which makes another run of the new data"
        )

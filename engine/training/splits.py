"""The parts of the data that a run learns from, chooses by and is measured on, with their images on disk."""

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
from engine.dataset.exif_orientation import Evidence, Frames
from engine.dataset.image_digest import together
from engine.dataset.leaks import PartImages
from engine.dataset.split import split_dataset
from engine.dataset.types import Frame
from engine.dataset.unreadable_images import Unreadable, check_few, find_unreadable, names_of
from engine.errors import DataError
from engine.result_types import SplitCheck
from engine.safe_text import listed
from engine.spec import ExifOrientation
from engine.storage import Storage
from engine.training.shared_images import check_shared, groups, known_images

Known = Callable[[Callable[[], None]], PartImages]
"""Opens the images of a part, calling what it is given again and again, and returns what is known of them."""


@dataclass(frozen=True)
class SplitData:
    """One part of the data; its images, in the dataset's order, lie at ``paths``."""

    dataset: CocoDataset
    paths: tuple[Path, ...]

    def sample(self, index: int, *, with_masks: bool, select: NDArray[np.int64] | None = None) -> Sample:
        """One decoded image with its objects, or with those at the positions ``select``."""
        return load_sample(self.dataset, index, self.paths[index], with_masks=with_masks, select=select)

    def without(self, unreadable: Unreadable, frame: Frame = Frame.UPRIGHT) -> SplitData:
        """The same less some images, and some objects of others; images that do not show theirs are of ``frame``."""
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
    """The data of a run as its annotations tell of it, checked and divided: its images may still have to come.

    Attributes:
        config: What the configuration says of it.
        whole: By name, the parts with all their images: ``train``, ``val`` and, if the configuration asks for it,
            ``test``.
        folders: Of the images of each part.
        masks: Whether the teacher learns masks.
        cache: Where images are kept.
        images_digest: The fingerprint of all images that are listed.
        known: Of each part, opens its images and gives what tells which of them are the same.
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
            config: What the configuration says of the data.
            masks: Whether the teacher learns masks. If so, images without one are left out of the training part: they
                have nothing to teach. For boxes they show what is not an object.
            seed: Of the split.
            storage: Where annotations and images come from.
            cache: Where images are kept.

        Raises:
            DataError: The annotations are not those that were inspected, an image is missing, or a part has nothing to
                learn or to find.
            StorageError: Something cannot be had.
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
        """Bring the images of a part to the disk, and find what of them cannot be used: see :func:`find_unreadable`."""
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
        """What cannot be used of some parts, now that the frame is known: where the file gives no size, it says which
        objects lie outside.
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
        """Some parts less what cannot be used of them.

        Raises:
            DataError: So many images of them cannot be used that the data cannot, or nothing is left to learn or to
                find.
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
        """The images that cannot be used, of some parts together."""
        together = Unreadable()
        for name in self.whole:
            for image, fault in unreadable[name].faults.items() if name in unreadable else ():
                together.faults[f"{name}: {image}" if image in together.faults else image] = fault
        pages = sum(one.pages for one in unreadable.values())
        return replace(together, frames=self.frames(unreadable), pages=pages)


@dataclass(frozen=True)
class Splits:
    """The data of a run, its images being on the disk.

    Attributes:
        train: What is learned from.
        val: What the best adapter is chosen by.
        test: What it is measured on, if the configuration asks for it.
        unreadable: What is in no part, since it cannot be used.
        objects_skipped: Objects outside their image, those of images that cannot be used, and those whose box and mask
            contradict each other.
        images_digest: The fingerprint of all images that are listed, of all parts.
        shared: How many images several parts have.
        marks: By part and file name, what changes with the bytes of an image.
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
        """All parts of ``data``, whose images are brought to the disk.

        Args:
            data: Annotations of the run, divided into splits.
            here: What cannot be used of the parts that have been brought before.
            check: Is called again and again meanwhile, in several threads; what it raises ends it.

        Raises:
            DataError: Too many images cannot be used, or nothing is left to learn or to find.
            StorageError: Something cannot be had.
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
    assert data.split is not None  # noqa: S101 - the configuration gives it beside one file
    shares = {name: percent / 100 for name, percent in data.split.model_dump().items()}
    split = split_dataset(dataset, shares, seed=seed, groups=groups)
    indices = {name: list(getattr(split, name)) for name in shares}
    for masks in (False, True):
        _share_out(indices, set(useful(dataset, masks=masks)), groups)
    return {name: dataset.subset(chosen) for name, chosen in indices.items() if chosen}


def _share_out(indices: dict[str, list[int]], wanted: set[int], groups: Sequence[int]) -> None:
    """See that the parts to learn from and to choose by both have an image that is wanted, where there are enough.

    By lot, few of many images may all fall to one part: the smallest group with one of them moves, and a group that is
    no larger takes its place. Groups stay together.

    Args:
        indices: Of the images of each part; changed in place.
        wanted: Images of which both parts need one.
        groups: Of each image its group.
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
    """The groups of some images, each once, in the order of their last image."""
    return list(dict.fromkeys(groups[image] for image in reversed(images)))[::-1]


def _move(group: int, source: list[int], target: list[int], groups: Sequence[int]) -> int:
    """Move a group from one part to another and return how many images it has."""
    moved = [image for image in source if groups[image] == group]
    source[:] = [image for image in source if groups[image] != group]
    target += moved
    return len(moved)


def useful(dataset: CocoDataset, *, masks: bool) -> list[int]:
    """The images with an object that can be learned or found: crowds do not count."""
    return [
        index
        for index, objects in enumerate(dataset.annotations)
        if any(not found.iscrowd and (not masks or found.segmentation) for found in objects)
    ]


def _files(data: DataConfig, storage: Storage) -> dict[str, PartFiles]:
    """The files of each part; of data that is still to be divided, those of ``all``."""
    if data.source is not None:
        return find_parts(data.source.annotations, data.source.images, storage=storage)
    given = {name: getattr(data, name) for name in ("train", "val", "test")}
    return {
        name: next(iter(find_parts(part.annotations, part.images, storage=storage).values()))
        for name, part in given.items()
        if part is not None
    }


def _check_digest(data: DataConfig, digests: list[str]) -> None:
    """The annotations are those that were inspected."""
    digest = together(digests)
    if digest != data.digest:
        raise DataError(
            f"the annotations have changed since they were inspected (sha256 {data.digest} then, {digest} now): "
            "start again from the manifest, so that the configuration follows from the new data"
        )


def _check_images(data: DataConfig, images: int, digest: str) -> None:
    """Annotations that are the same list the same images, which may have been taken away, or replaced, meanwhile."""
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

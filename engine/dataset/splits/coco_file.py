"""Divide a COCO file into one file per split: :func:`split_file`.

Elements are copied byte for byte. The file is read twice, as a stream: first to find the classes of each image, then to
copy. If annotations come before the images, each section takes a pass of its own. Five bytes per annotation are kept in
memory: its image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.dataset.checks.coco_kind import check_keys
from engine.dataset.coco_reader import CocoReader
from engine.dataset.coco_records import RawAnnotation, RawImage, record
from engine.dataset.coco_scan import uncollected
from engine.dataset.export_layouts import find_single_split
from engine.dataset.id_index import UNKNOWN, Distinct, IdIndex, other_spelling
from engine.dataset.images.folder import ImageFolder
from engine.dataset.images.near_duplicates import connected
from engine.dataset.images.table import Texts
from engine.dataset.splits.groups import field_values, keep_together, open_all, split_images
from engine.dataset.splits.leaks import Grouping
from engine.dataset.splits.split_files import SplitFiles
from engine.dataset.splits.stratify import SPLIT_NAMES, Split, split_dataset
from engine.dataset.types import ImageId
from engine.errors import DataError
from engine.spec import Crowds
from engine.storage import Storage, default_cache, is_remote
from engine.storage.files import failures, replacing
from engine.text.safe_text import listed


@dataclass(frozen=True)
class WrittenSplit:
    """One file that was written."""

    split: str
    path: Path
    images: int
    annotations: int
    without: tuple[str, ...]
    """Names of classes that occur in the dataset, but not in this split."""

    def __str__(self) -> str:
        text = f"{self.path}: {self.images:,} images, {self.annotations:,} annotations"
        return text + (f"; none of {listed(self.without)}" if self.without else "")


def split_file(
    annotations: str,
    output: Path,
    fractions: Mapping[str, float],
    *,
    seed: int,
    stratify: bool = True,
    storage: Storage | None = None,
    crowds: Crowds = Crowds.IGNORE,
    images: str | None = None,
    group_by: str | None = None,
) -> list[WrittenSplit]:
    """Divide a COCO file into ``train.json``, ``val.json`` and ``test.json``.

    Every file has all categories and all other sections (info, licenses …). Images that share an id stay together, and
    so do images that are the same by file, bytes, picture or group, and versions of a picture made by Roboflow: see
    :mod:`engine.dataset.splits.leaks`. Annotations of unlisted images are left out.

    Args:
        annotations: COCO instances JSON, or the folder of an export that is not divided; s3:// or path.
        output: Folder to write to.
        fractions: Fraction of the images of train, val and test; a split without a fraction is not written.
        seed: The same seed on the same file gives the same files.
        stratify: Keep the fraction of every class in every split.
        storage: Access to object storage; default: from the environment.
        crowds: Treat annotations with ``iscrowd: 1`` as ignore regions or as objects.
        images: Folder of the images; default: searched next to the annotations. Images on disk are opened, those in S3
            only if the folder is given.
        group_by: Rule for images that belong together: ``Folder``, ``Prefix:_`` or ``Field:video_id``.

    Raises:
        ConfigError: The fractions are negative or do not add up to 1.
        DataError: The file is not a COCO dataset, or is already divided.
        StorageError: Something cannot be read or written.
    """
    store = storage or Storage()
    files = find_single_split(annotations, images, storage=store)
    source = files.annotations
    grouping = Grouping.optional(group_by)
    with uncollected():
        contents = _Contents.of(source, store, crowds)
        groups = _groups(contents, files, grouping, store, opened=images is not None or not is_remote(files.images))
        division = split_dataset(contents.labels(), fractions, seed=seed, stratify=stratify, groups=groups)
        return _write(contents, division, [split for split in SPLIT_NAMES if fractions.get(split)], output, store)


def _groups(
    contents: _Contents, files: SplitFiles, grouping: Grouping | None, storage: Storage, *, opened: bool
) -> NDArray[np.int64]:
    """Return a group number per image id; images with the same number must stay in the same split."""
    folder, names = ImageFolder(files.images, storage=storage, cache=default_cache()), contents.file_names
    fields = [value for _, value in field_values(files.annotations, grouping, storage=storage)]
    small = open_all(names, folder, storage) if opened else None
    found = keep_together(split_images(names, folder, thumbnails=small, grouping=grouping, fields=fields))
    # Entries that share an id are one place, which connects the groups of their files.
    pairs = [(int(place), contents.places + int(group)) for place, group in zip(contents.images, found, strict=True)]
    return connected(contents.places + len(found), pairs)[: contents.places]


class _Contents:
    """Contents of a file after the first pass. A place is the index of an image id among the distinct ones.

    Attributes:
        source: The file.
        crowds: Treat crowds as ignore regions or as objects.
        others: Raw JSON of all sections except images and annotations, by name.
        digest: sha256 of the file, in hex.
        file_names: File name per image; empty if missing.
        images: Place per image.
        annotations: Place of the image per annotation, UNKNOWN if that image is not listed.
        passes: Sections that each further pass over the file copies.
    """

    def __init__(self, source: str, crowds: Crowds) -> None:
        self.source, self.digest, self.crowds = source, "", crowds
        self.others: dict[str, bytes] = {}
        self.images, self.annotations = np.zeros(0, np.int32), np.zeros(0, np.int32)
        self.passes: list[tuple[str, ...]] = [("images", "annotations")]
        self.places = 0
        self.file_names = Texts()
        self._index = IdIndex()
        self._classes: dict[ImageId | None, int] = {}
        self._pairs = Distinct()

    @classmethod
    def of(cls, source: str, storage: Storage, crowds: Crowds) -> _Contents:
        """Read a file for the first time.

        Raises:
            DataError: It is not a COCO dataset.
        """
        contents = cls(source, crowds)
        empty = np.zeros(0, np.int32)
        blocks = {"images": [empty], "annotations": [empty]}
        with storage.open(source) as stream:
            reader = CocoReader(stream, source=source, others=contents.others)
            order: list[str] = []
            for section, block in reader.blocks():
                order += [section] if order[-1:] != [section] else []
                if section == "images":
                    blocks[section].append(contents._images(block))
                elif order[0] == "images":
                    blocks[section].append(contents._objects(block))
        check_keys(reader.keys, source)
        contents.digest = reader.digest
        if order not in ([], ["images"], ["images", "annotations"]):
            contents.passes = [("images",), ("annotations",)]
            with storage.open(source) as stream:
                blocks["annotations"] = [empty] + [
                    contents._objects(block)
                    for section, block in CocoReader(stream, source=source, others={}).blocks()
                    if section == "annotations"
                ]
        contents.images, contents.annotations = (np.concatenate(blocks[name]) for name in ("images", "annotations"))
        return contents

    def _images(self, block: list[RawImage]) -> NDArray[np.int32]:
        for image in block:
            self.file_names.append(image.file_name or "")
        ids = [image.id for image in block]
        known = self._index.find(ids)
        new = dict.fromkeys(one for one, place in zip(ids, known.tolist(), strict=True) if place == UNKNOWN)
        self._index.add(list(new), range(self.places, self.places + len(new)))
        self.places += len(new)
        return self._index.find(ids).astype(np.int32)

    def _objects(self, block: list[RawAnnotation]) -> NDArray[np.int32]:
        places = self._index.match([annotation.image_id for annotation in block])
        ids = [annotation.category_id for annotation in block]
        for class_id in dict.fromkeys(ids):
            self._classes.setdefault(class_id, len(self._classes))
        classes = np.array([self._classes[class_id] for class_id in ids], np.int64)
        left_out = np.array([bool(annotation.iscrowd) for annotation in block], np.bool_)
        counted = (places != UNKNOWN) & ~(left_out & (self.crowds is Crowds.IGNORE))
        self._pairs.add(places[counted] << 24 | classes[counted])
        return places.astype(np.int32)

    def names(self) -> dict[ImageId | None, str]:
        """Return category names by id, in file order."""
        try:
            elements = msgspec.json.decode(self.others.get("categories", b"[]"), type=list[msgspec.Raw])
        except msgspec.MsgspecError:
            return {}
        categories = [record("categories", element) for element in elements]
        return {category.id: category.name or "" for category in categories}

    def labels(self) -> list[tuple[int, ...]]:
        """Return the classes of each place, as positions in :meth:`names`."""
        position = {class_id: i for i, class_id in enumerate(self.names())}
        known = [position.get(one, position.get(other_spelling(one), -1)) for one in self._classes]
        listed = np.array(known, np.int64)
        pairs = self._pairs.numbers()
        places, classes = pairs >> 24, listed[pairs & 0xFFFFFF] if len(pairs) else pairs
        places, classes = places[classes >= 0], classes[classes >= 0]
        borders = np.searchsorted(places, np.arange(self.places + 1)).tolist()
        shared: dict[tuple[int, ...], tuple[int, ...]] = {}
        found = (tuple(classes[begin:end].tolist()) for begin, end in pairwise(borders))
        return [shared.setdefault(one, one) for one in found]


def _write(
    contents: _Contents, division: Split, splits: list[str], output: Path, storage: Storage
) -> list[WrittenSplit]:
    split_of = np.full(contents.places + 1, -1, np.int8)  # the last is that of UNKNOWN
    for number, split in enumerate(splits):
        split_of[getattr(division, split)] = number
    splits_of = {"images": split_of[contents.images], "annotations": split_of[contents.annotations]}
    names = list(contents.names().values())
    with ExitStack() as stack:
        files = [_File(output / f"{split}.json", stack) for split in splits]
        for file in files:
            file.begin(contents.others)
        for sections in contents.passes:
            for section, block, own in _raw(contents, sections, splits_of, storage):
                for number, file in enumerate(files):
                    file.add(section, [block[i] for i in np.flatnonzero(own == number)])
        for file in files:
            file.end()
    return [
        WrittenSplit(
            split=split,
            path=file.path,
            images=file.counts["images"],
            annotations=file.counts["annotations"],
            without=tuple(names[label] for label, having in division.rare.items() if split not in having),
        )
        for split, file in zip(splits, files, strict=True)
    ]


def _raw(
    contents: _Contents, sections: tuple[str, ...], splits_of: Mapping[str, NDArray[np.int8]], storage: Storage
) -> Iterator[tuple[str, list[msgspec.Raw], NDArray[np.int8]]]:
    """Yield blocks of raw elements, with the index of the split of each, -1 for none."""
    source, done = contents.source, dict.fromkeys(splits_of, 0)
    with failures(source, "read"), storage.open(source) as stream:
        reader = CocoReader(stream, source=source, raw=True, others={})
        for section, block in reader.blocks():
            if section in sections:
                own = splits_of[section][done[section] :][: len(block)]
                done[section] += len(block)
                yield section, block, own
    if reader.digest != contents.digest:
        raise DataError(f"{source} was changed while it was divided: divide it again")


class _File:
    """One file that is written: images, then annotations."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path, self.counts = path, {"images": 0, "annotations": 0}
        stack.enter_context(failures(str(path), "written"))
        temporary = stack.enter_context(replacing(path))
        self._file: BinaryIO = stack.enter_context(temporary.open("wb"))
        self._turned = False

    def begin(self, others: Mapping[str, bytes]) -> None:
        """Write the sections that every split has."""
        self._write(b"{\n", *(b"%s: %s,\n" % (json.dumps(name).encode(), value) for name, value in others.items()))
        self._write(b'"images": [\n')

    def add(self, section: str, elements: list[msgspec.Raw]) -> None:
        """Write some images, or, when all of these are written, some annotations."""
        if section == "annotations":
            self._turn()
        if elements:
            self._write(b",\n" if self.counts[section] else b"", b",\n".join(elements))
            self.counts[section] += len(elements)

    def end(self) -> None:
        """Write the rest."""
        self._turn()
        self._write(b"\n]\n}\n")
        with failures(str(self.path), "written"):
            self._file.close()

    def _turn(self) -> None:
        if not self._turned:
            self._write(b'\n],\n"annotations": [\n')
        self._turned = True

    def _write(self, *texts: bytes) -> None:
        with failures(str(self.path), "written"):
            self._file.writelines(texts)

"""Read a COCO file once and decide which images, classes and objects are usable; shared by all readers of COCO files.

Memory per image is about a hundred bytes plus its name. Memory per annotation does not depend on its size: 16 bytes of
each box, to find duplicate objects, and one bit of each id (8 bytes if the id is text, negative or above 2**28).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from engine.dataset.checks.coco_kind import check_keys, check_kind
from engine.dataset.checks.duplicate_image_entries import Claims
from engine.dataset.checks.problem_catalogue import CATALOGUE, IMAGES_LEFT_OUT
from engine.dataset.checks.problems import ProblemLog
from engine.dataset.checks.shifted_category_ids import shifted
from engine.dataset.checks.validate_annotations import ValidatedAnnotations, validate_annotations
from engine.dataset.checks.whole_file_checks import FileChecks
from engine.dataset.coco_header import LEFT_OUT, GrowingClassIndex, Header
from engine.dataset.coco_reader import CocoReader
from engine.dataset.coco_records import RawAnnotation, RawCategory, RawImage
from engine.dataset.file_names import FileNames, is_unsafe
from engine.dataset.id_index import UNKNOWN, other_spelling
from engine.dataset.splits.split_files import SplitFiles
from engine.dataset.types import CocoImage, ImageId
from engine.spec import Crowds
from engine.storage import Storage

LABEL_STUDIO = ("/data/local-files/", "/data/upload/")
"""Prefixes of paths on a Label Studio server."""

LARGEST_SIDE = 1e6
"""Upper limit of an image side in pixels; larger values in a file are ignored."""


OnBlock = Callable[[list[RawAnnotation], ValidatedAnnotations, Header], None]
"""Receives a block of annotations, its validation results, and the header read so far."""

Opened = Mapping[ImageId, tuple[int, int] | None]
"""Facts about opened images by id: None for an unusable image; width and height in pixels for an image whose size is
missing or differs in the COCO file. Images that agree with the file have no entry."""


class Scan:
    """Read one split and validate its images, classes and annotations.

    Args:
        split: Annotation file and image folder to read.
        names: Files in the image folder.
        storage: Access to the annotation file.
        log: Receives problems of images and classes.
        opened: Facts about images that were opened before.
        crowds: Treat crowds as ignore regions or as objects.
        thorough: Compare every mask with its box, see :class:`FileChecks`.
        copies: Keep duplicate objects.

    Attributes:
        header: Images and classes; complete after :meth:`run`.
        digest: sha256 of the file, in hex.
        images_listed: Number of images in the file, usable or not.
        keys: Key of the file of each listed image, in file order; None if it has no file.
    """

    def __init__(
        self,
        split: SplitFiles,
        *,
        names: FileNames,
        storage: Storage,
        log: ProblemLog,
        opened: Opened | None = None,
        crowds: Crowds = Crowds.IGNORE,
        thorough: bool = True,
        copies: bool = False,
    ) -> None:
        self.split, self.names, self.storage, self.log = split, names, storage, log
        self.opened = opened or {}
        self.header = Header()
        self.digest = ""
        self.images_listed = 0
        self.keys: list[str | None] = []
        self.crowds, self.checks = crowds, FileChecks(thorough=thorough, copies=copies)
        self._images_expected = split.images_expected
        self._claims = Claims(names)
        self._unknown: list[int] = []
        self._settled = False

    def run(self, start: Callable[[], OnBlock]) -> Header:
        """Read the file and pass every block of annotations on, with its validation results.

        The file is read a second time if the first pass validated annotations with incomplete information (images
        follow the annotations, or annotations have unlisted classes), or if it found duplicate objects or boxes that
        contradict their masks.

        Args:
            start: Called at the start of each pass; returns the receiver of its blocks.

        Raises:
            DataError: The file is not a COCO dataset.
            StorageError: The file cannot be read.
        """
        with uncollected():
            complete = self._first_pass(start())
            if not complete:
                self.checks.begin()
                self._second_pass(start())
            if self.checks.finish():
                self.checks.begin()
                self._second_pass(start())
        self.checks.note(self.log, images=self.header.image_index)
        return self.header

    def _first_pass(self, on_block: OnBlock) -> bool:
        """Read images and classes, and validate annotations with those read before them.

        Returns:
            True if all annotations were validated with complete information.
        """
        header, too_soon = self.header, False
        classes = GrowingClassIndex(header)
        source = self.split.shown
        with self.storage.open_checked(self.split.annotations) as stream:
            reader = CocoReader(stream, source=source)
            for section, block in reader.blocks():
                if section == "images":
                    self._images(block)
                elif section == "categories":
                    self._categories(block)
                else:
                    check_kind(block, source)
                    too_soon = too_soon or "images" not in reader.keys
                    if not too_soon:
                        self._settle()
                    if too_soon:
                        for annotation in block:
                            classes.get(annotation.category_id)
                    else:
                        on_block(block, self._validate(block, classes), header)
                del block
        self.digest = reader.digest
        check_keys(reader.keys, source)
        self._settle()
        unnamed = header.class_ids and not header.categories.keys() >= set(header.class_ids)
        self._complete_header()
        return not too_soon and not unnamed

    def _second_pass(self, on_block: OnBlock) -> None:
        with self.storage.open_checked(self.split.annotations) as stream:
            for section, block in CocoReader(stream, source=self.split.shown).blocks():
                if section == "annotations":
                    on_block(block, self._validate(block, self.header.class_index), self.header)
                del block

    def _validate(self, block: list[RawAnnotation], class_index: Mapping[ImageId | None, int]) -> ValidatedAnnotations:
        header = self.header
        validated = validate_annotations(
            block,
            image_index=header.image_index,
            image_sizes=header.images.sizes,
            class_index=class_index,
            crowds=self.crowds,
            read_masks=self.checks.masks_to_read(block),
        )
        self.checks.add(block, validated)
        return validated

    def _images(self, block: list[RawImage]) -> None:
        header, log = self.header, self.log
        self._settled = False
        matches = [self.names.match(image.file_name) if image.file_name else None for image in block]
        keys = [None if match is None else match.key for match in matches]
        self.keys += keys
        # An image folder that was only guessed may be wrong: without any match in it, no image counts as missing.
        self._images_expected = self._images_expected or any(key is not None for key in keys)
        known = header.image_index.find([image.id for image in block]) != UNKNOWN
        index: dict[ImageId, int] = {}
        usable: list[CocoImage] = []
        for image, match, is_known in zip(block, matches, known.tolist(), strict=True):
            self.images_listed += 1
            key = None if match is None else match.key
            if image.file_name:
                self._claims.add(image.file_name, match)
            if image.id is None or is_known or image.id in index:
                log.add("no_image_id" if image.id is None else "duplicate_image_id", [image.file_name or image.id])
                continue
            if isinstance(image.id, str):
                log.add("text_ids", [image.id])
            index[image.id] = LEFT_OUT
            if image.conversion_problem in CATALOGUE:
                log.add(image.conversion_problem, [image.converted_from or image.file_name])
            if image.conversion_problem in IMAGES_LEFT_OUT:
                continue
            if not image.file_name:
                log.add("no_file_name", [image.id])
            elif key is None and (is_unsafe(image.file_name) or _is_absolute(image.file_name)):
                log.add("unsafe_file_name", [image.file_name])
            elif key is None and self._images_expected:
                log.add("missing_image", [image.file_name])
            else:
                said = _size(image.width), _size(image.height)
                if not all(said):
                    log.add("missing_size", [image.file_name])
                    said = 0, 0
                size = self.opened.get(image.id, said)
                if size is None:
                    continue
                index[image.id] = len(header.images) + len(usable)
                self._claims.take(index[image.id])
                if key is None:
                    self._unknown.append(index[image.id])
                usable.append(CocoImage(image.id, image.file_name, *size))
        header.images.extend(usable)
        header.image_index.add(list(index), list(index.values()))

    def _settle(self) -> None:
        """Leave out images whose matching file belongs to another entry, once all images are read."""
        header = self.header
        if self._settled:
            return
        self._settled = True
        wrong = self._claims.wrong()
        if self._images_expected:  # may have become true after the first images were read
            wrong |= {image: header.images.names[image] for image in self._unknown}
        self._unknown = []
        if wrong:
            self.log.add("missing_image", wrong.values(), count=len(wrong))
            kept = np.ones(len(header.images), np.bool_)
            kept[list(wrong)] = False
            new = np.where(kept, np.cumsum(kept) - 1, LEFT_OUT)

            def renumbered(old: NDArray[np.int64]) -> NDArray[np.int64]:
                return np.where(old >= 0, new[np.maximum(old, 0)], old)

            header.images.keep(kept)
            header.image_index.renumber(renumbered)
            self._claims.renumber(renumbered)
        header.repeats = self._claims.repeats()

    def _categories(self, block: list[RawCategory]) -> None:
        header, log = self.header, self.log
        for category in block:
            if category.id is None or category.id in header.categories:
                log.add("duplicate_category_id", [f"{category.id} ({category.name})"])
                continue
            header.categories[category.id] = category

    def _complete_header(self) -> None:
        """Order the classes by first use in annotations, then the unused ones; drop ids that the file does not list."""
        header = self.header
        met = [class_id for class_id in header.class_ids if class_id in header.categories]
        headings = {category.supercategory for category in header.categories.values()} - {"none", None}
        unused = [class_id for class_id in header.categories if class_id not in set(met)]
        dummies = [class_id for class_id in unused if class_id == 0 and header.categories[0].name in headings]
        headed = [class_id for class_id in met if class_id == 0 and header.categories[0].name in headings]
        if headed and unused and max(header.categories, key=_as_number) in unused:
            self.log.add("annotated_heading", [header.categories[class_id].name for class_id in headed])
        if missing := shifted(header.class_ids, listed=header.categories):
            self.log.add("shifted_category_ids", missing, count=len(missing))
        self.log.add("dummy_class", [header.categories[class_id].name for class_id in dummies], count=len(dummies))
        header.class_ids = met + [class_id for class_id in unused if class_id not in dummies]
        header.class_index = {class_id: index for index, class_id in enumerate(header.class_ids)}
        for class_id, index in list(header.class_index.items()):
            other = other_spelling(class_id)
            if other is not None and other not in header.categories:
                header.class_index[other] = index


def _as_number(one: ImageId) -> int:
    return one if isinstance(one, int) else -1


def _is_absolute(file_name: str) -> bool:
    """Test for an absolute path. Paths on a Label Studio server are relative to the image folder and do not count."""
    return file_name.startswith("/") and not file_name.startswith(LABEL_STUDIO)


@contextmanager
def uncollected() -> Iterator[None]:
    """Turn garbage collection off: millions of short-lived objects without reference cycles would slow it down."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _size(value: float | None) -> int:
    """Return the length of a side in pixels; 0 if it is missing or impossible."""
    return int(value) if value is not None and 1 <= value < LARGEST_SIDE else 0

"""One pass over a COCO file, shared by all who read one: which images, classes and objects can be used.

Memory grows with the number of images and, by eight bytes, of annotations; not with what is written of each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.dataset.layouts import PartFiles, is_image
from engine.dataset.names import FileNames, is_unsafe
from engine.dataset.objects import Judged, judge
from engine.dataset.problems import ProblemLog
from engine.dataset.reader import CocoReader
from engine.dataset.records import RawAnnotation, RawCategory, RawImage
from engine.dataset.types import CocoImage, ImageId
from engine.errors import DataError
from engine.storage import Storage

LEFT_OUT = -2
"""Image index of an image that is listed but cannot be used."""


@dataclass
class Header:
    """Images and classes of one file, as far as they are known.

    Attributes:
        images: The usable images, in file order.
        image_index: From image id to index in ``images``, or LEFT_OUT.
        class_ids: Category ids in the order in which classes were met.
        class_index: From category id to position in ``class_ids``.
        categories: From category id to name.
    """

    images: list[CocoImage] = field(default_factory=list)
    image_index: dict[ImageId | None, int] = field(default_factory=dict)
    class_ids: list[ImageId] = field(default_factory=list)
    class_index: dict[ImageId | None, int] = field(default_factory=dict)
    categories: dict[ImageId, RawCategory] = field(default_factory=dict)
    sizes: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))

    def class_names(self, log: ProblemLog) -> list[str]:
        """Name of each class of ``class_ids``, tidied."""
        names: list[str] = []
        for class_id in self.class_ids:
            name = self.categories[class_id].name
            tidy = (name or "").strip()
            if not tidy:
                log.add("unnamed_class", [class_id])
                tidy = f"class {class_id}"
            elif tidy != name:
                log.add("untidy_class_name", [name])
            names.append(tidy)
        return names


OnBlock = Callable[[list[RawAnnotation], Judged, Header], None]
"""Takes a block, what was judged of it, and the header as far as it is known."""


class Scan:
    """A pass over one part.

    Args:
        part: What to read.
        storage: Where it lies.
        log: Problems of the header are noted here.
    """

    def __init__(self, part: PartFiles, *, storage: Storage, log: ProblemLog) -> None:
        self.part, self.storage, self.log = part, storage, log
        self.header = Header()
        self.digest = ""
        self.images_listed = 0
        self._names = FileNames(())
        self._check_files = part.images_given

    def run(self, start: Callable[[], OnBlock]) -> Header:
        """Read the file and hand on every block of annotations with what was judged of it.

        Args:
            start: Called when a pass begins; returns what takes the blocks. There is a second pass where the first
                judged too soon: the file names its images after its annotations, or not all classes of annotations.

        Raises:
            DataError: The file is no COCO dataset.
            StorageError: It cannot be had.
        """
        self._names = FileNames(item.key for item in self.storage.list(self.part.images) if is_image(item.key))
        if not self._pass(start(), known=False):
            self._pass(start(), known=True)
        return self.header

    def _pass(self, on_block: OnBlock, *, known: bool) -> bool:
        """One pass. With ``known``, images and classes are those of the pass before.

        Returns:
            Whether everything was judged by a complete header.
        """
        header, early, annotations = self.header, False, 0
        classes = header.class_index if known else _Growing(header)
        with self.storage.open(self.part.annotations) as stream:
            reader = CocoReader(stream, source=self.part.annotations)
            for section, block in reader.blocks():
                if section == "annotations":
                    annotations += len(block)
                    _check_kind(block, self.part.annotations)
                    early = early or (not known and "images" not in reader.keys)
                    if not early:
                        judged = judge(
                            block,
                            image_index=header.image_index,
                            image_sizes=header.sizes,
                            class_index=classes,
                        )
                        on_block(block, judged, header)
                elif not known and section == "images":
                    self._images(block)
                elif not known:
                    self._categories(block)
            self.digest = reader.digest
            _check_keys(reader.keys, self.part.annotations)
        if known:
            return True
        unnamed = [class_id for class_id in header.class_ids if class_id not in header.categories]
        self._finish_header()
        return not (early and annotations) and not unnamed

    def _images(self, block: list[RawImage]) -> None:
        header, log = self.header, self.log
        # A folder that was only guessed may be the wrong one: then nothing is known of what is missing.
        self._check_files = self._check_files or any(self._there(image.file_name) for image in block)
        rows: list[tuple[int, int]] = []
        for image in block:
            self.images_listed += 1
            label = image.file_name or image.id
            if image.id is None or image.id in header.image_index:
                log.add("duplicate_image_id", [image.id])
                continue
            if isinstance(image.id, str):
                log.add("text_ids", [image.id])
            header.image_index[image.id] = LEFT_OUT
            if not image.file_name:
                log.add("no_file_name", [image.id])
                continue
            if is_unsafe(image.file_name) or (image.file_name.startswith("/") and not self._there(image.file_name)):
                log.add("unsafe_file_name", [image.file_name])
                continue
            if self._check_files and not self._there(image.file_name):
                log.add("missing_image", [label])
                continue
            width, height = max(0, image.width or 0), max(0, image.height or 0)
            if not (width and height):
                log.add("missing_size", [label])
                width = height = 0
            header.image_index[image.id] = len(header.images)
            header.images.append(CocoImage(image.id, image.file_name, width, height))
            rows.append((width, height))
        header.sizes = np.concatenate([header.sizes, np.array(rows, np.float64).reshape(-1, 2)])

    def _there(self, file_name: str | None) -> bool:
        return file_name is not None and self._names.find(file_name) is not None

    def _categories(self, block: list[RawCategory]) -> None:
        header, log = self.header, self.log
        for category in block:
            if category.id is None or category.id in header.categories:
                log.add("duplicate_category_id", [f"{category.id} ({category.name})"])
                continue
            header.categories[category.id] = category

    def _finish_header(self) -> None:
        """Classes in the order of their ids; those that annotations have but the file does not name are dropped."""
        header = self.header
        header.class_ids = [class_id for class_id in header.class_ids if class_id in header.categories]
        known = set(header.class_ids)
        header.class_ids += [class_id for class_id in header.categories if class_id not in known]
        header.class_index = {class_id: index for index, class_id in enumerate(header.class_ids)}

    def unlisted(self) -> list[str]:
        """Image files in the folder that the file does not list."""
        used = {self._names.find(image.file_name) for image in self.header.images}
        return sorted(self._names.keys - used) if used - {None} else []


class _Growing(dict[ImageId | None, int]):
    """Class indices given out as classes are met: the categories usually stand at the end of the file."""

    def __init__(self, header: Header) -> None:
        super().__init__(header.class_index)
        self._ids = header.class_ids

    def get(self, key: ImageId | None, default: int = -1) -> int:  # type: ignore[override]
        if key is None:
            return default
        if key not in self:
            self[key] = len(self._ids)
            self._ids.append(key)
        return self[key]


def _check_kind(block: list[RawAnnotation], source: str) -> None:
    """Refuse files that look like COCO instances and are not."""
    if any(a.segments_info is not None for a in block):
        raise DataError(f"{source} is COCO panoptic: export the instances (boxes or masks) instead")
    if block and all(a.caption is not None for a in block):
        raise DataError(f"{source} holds captions, not objects: give the instances file instead")


def _check_keys(keys: dict[str, str], source: str) -> None:
    if {"shapes", "imagePath"} <= keys.keys():
        raise DataError(f"{source} is a LabelMe file, not COCO: convert the folder to COCO first")
    wrong = [key for key in ("images", "annotations") if keys.get(key) != "["]
    if wrong:
        there = ", ".join(list(keys)[:10]) or "nothing"
        raise DataError(f"{source} is not COCO: it needs lists named images and annotations, found {there}")


def hashes(block: list[RawAnnotation]) -> NDArray[np.int64]:
    """Annotation ids as numbers: equal ids have equal ones."""
    return np.fromiter((hash(a.id) for a in block), np.int64, len(block))

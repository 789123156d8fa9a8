"""Inspect a dataset and open every image as well: :func:`validate_dataset`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path

import numpy as np

from engine.dataset.checks.problem_catalogue import SEEN_WHEN_OPENED
from engine.dataset.checks.problems import EXAMPLES, ProblemLog
from engine.dataset.coco_scan import Opened, Scan
from engine.dataset.images.decoding import ImageHeader, decode_image, probe_image
from engine.dataset.images.digest import mark_of
from engine.dataset.images.exif_orientation import Evidence, Frames, evidence_of
from engine.dataset.images.near_duplicates import SIDE, thumbnail
from engine.dataset.inspect import inspect_splits, splits_of_request
from engine.dataset.splits.comparison import Picture
from engine.dataset.splits.leaks import Grouping
from engine.dataset.types import CocoImage, DatasetInfo, Frame, ImageId
from engine.errors import DataError
from engine.spec import Crowds, DatasetSpec, ExifOrientation
from engine.storage import Storage, join
from engine.storage.transfer import each_done

Size = tuple[int, int]

THREADS = 16
"""Images read at a time: bounds the memory."""

_FORMATS = {
    "jpg": "JPEG",
    "jpeg": "JPEG",
    "jpe": "JPEG",
    "png": "PNG",
    "gif": "GIF",
    "bmp": "BMP",
    "webp": "WEBP",
    "tif": "TIFF",
    "tiff": "TIFF",
}


def validate_dataset(
    annotations: str | Path,
    images: str | Path | None = None,
    *,
    storage: Storage | None = None,
    thorough: bool = True,
    exif_orientation: ExifOrientation = ExifOrientation.AUTO,
    crowds: Crowds = Crowds.IGNORE,
) -> DatasetInfo:
    """Inspect a dataset as :func:`engine.dataset.inspect_dataset` does, and open every image as well.

    The same things are left out as in training: unusable images with their objects, and objects outside an image whose
    size the file does not give.

    Args:
        annotations: COCO instances JSON, or the folder of a Roboflow, CVAT or Label Studio export; s3:// or path.
        images: Folder of the images; default: searched next to the annotations.
        storage: Access to object storage; default: from the environment.
        exif_orientation: True if images were annotated as rotated by EXIF, where their size does not show it.
        thorough: Decode every image; otherwise only its header is read, which does not reveal damaged pixel data.
        crowds: Treat annotations with ``iscrowd: 1`` as ignore regions or as objects.

    Raises:
        DataError: It contains no COCO dataset.
        StorageError: It cannot be read.
    """
    dataset = DatasetSpec.model_construct(  # a path may be longer than a manifest allows
        annotations=str(annotations),
        images=None if images is None else str(images),
        exif_orientation=exif_orientation,
        crowds=crowds,
    )
    return validate_request(dataset, storage=storage or Storage(), thorough=thorough)


def validate_request(dataset: DatasetSpec, *, storage: Storage, thorough: bool = True) -> DatasetInfo:
    """Validate the data of a request: one file, an export, or splits given separately."""
    splits, source = splits_of_request(dataset, storage=storage)
    exif_orientation = dataset.exif_orientation

    pictures: dict[str, Picture] = {}

    def open_images(scans: Mapping[str, Scan], log: ProblemLog) -> Mapping[str, Opened]:
        results = {
            name: _open_split(scan, storage=storage, thorough=thorough, pictures=pictures)
            for name, scan in scans.items()
        }
        frames = sum((one.frames for one in results.values()), Frames())
        for one in results.values():
            for code, first in sorted(one.examples.items(), key=itemgetter(1)):
                log.add(code, [example for _, example in first], count=one.counts[code])
        for code, count, examples in frames.problems(exif_orientation):
            log.add(code, examples, count=count)
        frame = frames.frame(exif_orientation)
        return {name: one.opened(frame) for name, one in results.items()}

    return inspect_splits(
        splits,
        source=source,
        storage=storage,
        open_images=open_images,
        crowds=dataset.crowds,
        grouping=Grouping.optional(dataset.group_by),
        pictures=pictures,
    )


@dataclass
class _OpenedSplit:
    """Result of opening the images of one split.

    Attributes:
        sizes: By id, width and height in pixels of images whose size differs from the file, upright and as stored;
            None for unusable images.
        frames: Evidence for the orientation in which they were annotated.
        counts: Problems by code.
        examples: By code, the first places, each with the position of the image.
    """

    sizes: dict[ImageId, tuple[Size, Size] | None] = field(default_factory=dict)
    frames: Frames = field(default_factory=Frames)
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[tuple[int, str]]] = field(default_factory=dict)

    def opened(self, frame: Frame) -> Opened:
        """Return the result for all images."""
        stored = frame is Frame.STORED
        return {number: None if size is None else size[stored] for number, size in self.sizes.items()}


def _open_split(scan: Scan, *, storage: Storage, thorough: bool, pictures: dict[str, Picture]) -> _OpenedSplit:
    def open_one(numbered: tuple[int, CocoImage]) -> tuple[int, CocoImage, _OpenedImage]:
        number, image = numbered
        uri = join(scan.split.images, scan.names.find(image.file_name) or image.file_name)
        seen = _open_image(image, uri, storage=storage, thorough=thorough)
        if seen.picture is not None:
            pictures[uri] = seen.picture
        return number, image, seen

    opened = _OpenedSplit()
    shown: list[tuple[int, Evidence, str]] = []
    with closing(each_done(open_one, enumerate(scan.header.images), threads=THREADS)) as done:
        for number, image, seen in done:
            if seen.sizes is None or seen.sizes[0] != (image.width, image.height):
                opened.sizes[image.id] = seen.sizes
            if seen.evidence is not Evidence.NONE:
                shown.append((number, seen.evidence, image.file_name))
            for code, example in seen.problems:
                opened.counts[code] += 1
                opened.examples[code] = sorted([*opened.examples.get(code, ()), (number, example)])[:EXAMPLES]
    for _, evidence, file_name in sorted(shown):
        opened.frames.add(evidence, file_name)
    return opened


@dataclass(frozen=True)
class _OpenedImage:
    """Result of opening one image.

    Attributes:
        sizes: Width and height in pixels to compare its objects with, in either orientation; None if unusable.
        problems: Problem codes, each with a message.
        evidence: Evidence for the orientation in which it was annotated.
        picture: Digest of its bytes, and its thumbnail if it was decoded; None if unusable.
    """

    sizes: tuple[Size, Size] | None
    problems: tuple[tuple[str, str], ...]
    evidence: Evidence = Evidence.NONE
    picture: Picture | None = None


def _open_image(image: CocoImage, uri: str, *, storage: Storage, thorough: bool) -> _OpenedImage:
    try:
        data = storage.read_bytes(uri)
        header = probe_image(data, name=image.file_name)
        small = np.zeros((SIDE, SIDE), np.uint8)
        if thorough:
            small = thumbnail(decode_image(data, name=image.file_name))
    except DataError as error:
        return _OpenedImage(None, (("unreadable_image", str(error)),))
    problems = tuple(_differences(image, header))
    if any(code in SEEN_WHEN_OPENED for code, _ in problems):
        return _OpenedImage(None, problems)
    said, upright = (image.width, image.height), (header.width, header.height)
    stored = upright[::-1] if header.rotated else upright
    sizes = (said, said) if image.width else (upright, stored)
    mark = mark_of(hashlib.md5(data, usedforsecurity=False).hexdigest(), len(data))
    return _OpenedImage(sizes, problems, evidence_of(image, header), (mark, small))


def _differences(image: CocoImage, header: ImageHeader) -> Iterator[tuple[str, str]]:
    """Yield contradictions between the header of an image, its name and the annotations."""
    expected = _FORMATS.get(image.file_name.rpartition(".")[2].lower())
    # Some cameras write MPO instead of JPEG.
    if expected is not None and header.format != expected and (expected, header.format) != ("JPEG", "MPO"):
        yield "mislabelled_image", f"{image.file_name} is {header.format}"
    if header.pages > 1:
        yield "several_pages", image.file_name
    said, upright = (image.width, image.height), (header.width, header.height)
    turned = header.rotated and said == upright[::-1]
    if said not in ((0, 0), upright) and not turned:
        yield "wrong_size", f"{image.file_name} is {header.width}x{header.height}, not {image.width}x{image.height}"

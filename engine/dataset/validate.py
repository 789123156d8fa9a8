"""Inspection that opens every image as well: :func:`validate_dataset`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path

from engine.dataset.images import ImageHeader, decode_image, probe_image
from engine.dataset.inspect import inspect_parts
from engine.dataset.layouts import find_parts
from engine.dataset.problems import EXAMPLES, SEEN_WHEN_OPENED, ProblemLog
from engine.dataset.scan import Opened, Scan
from engine.dataset.types import CocoImage, DatasetInfo, ImageId
from engine.errors import DataError
from engine.storage import Storage, join
from engine.storage.transfer import each_done

THREADS = 16
"""Images that are read at a time: what bounds the memory."""

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
) -> DatasetInfo:
    """What :func:`engine.dataset.inspect_dataset` says, and what is wrong with the images themselves.

    What training leaves out when it opens them is left out here: images that cannot be used, with their objects, and
    objects outside an image whose size the file does not give.

    Args:
        annotations: COCO instances JSON, or the folder of a Roboflow, CVAT or Label Studio export; s3:// or path.
        images: Folder of the images; default: looked for beside the annotations.
        storage: How s3:// is reached; default: as the environment says.
        thorough: Decode every image; otherwise only its header is read, which does not show damage behind it.

    Raises:
        DataError: There is no COCO dataset in it.
        StorageError: It cannot be had.
    """
    store = storage or Storage()
    parts = find_parts(str(annotations), None if images is None else str(images), storage=store)
    parts = {name: replace(part, images_expected=True) for name, part in parts.items()}

    def look(scan: Scan, log: ProblemLog) -> Opened:
        def look_at(numbered: tuple[int, CocoImage]) -> tuple[int, CocoImage, _Seen]:
            number, image = numbered
            uri = join(scan.part.images, scan.names.find(image.file_name) or image.file_name)
            return number, image, _look(image, uri, storage=store, thorough=thorough)

        opened: dict[ImageId, tuple[int, int] | None] = {}
        counts: Counter[str] = Counter()
        examples: dict[str, list[tuple[int, str]]] = {}
        with closing(each_done(look_at, enumerate(scan.header.images), threads=THREADS)) as looked:
            for number, image, seen in looked:
                if seen.size != (image.width, image.height):
                    opened[image.id] = seen.size
                for code, example in seen.problems:
                    counts[code] += 1
                    examples[code] = sorted([*examples.get(code, ()), (number, example)])[:EXAMPLES]
        for code, first in sorted(examples.items(), key=itemgetter(1)):
            log.add(code, [example for _, example in first], count=counts[code])
        return opened

    return inspect_parts(parts, source=str(annotations), storage=store, look=look)


@dataclass(frozen=True)
class _Seen:
    """What opening an image has shown.

    Attributes:
        size: Width and height in pixels that its objects are to be compared with; None if it cannot be used.
        problems: Their codes, with what is to be said of each.
    """

    size: tuple[int, int] | None
    problems: tuple[tuple[str, str], ...]


def _look(image: CocoImage, uri: str, *, storage: Storage, thorough: bool) -> _Seen:
    try:
        data = storage.read_bytes(uri)
        header = probe_image(data, name=image.file_name)
        if thorough:
            decode_image(data, name=image.file_name)
    except DataError as error:
        return _Seen(None, (("unreadable_image", str(error)),))
    problems = tuple(_differences(image, header))
    if any(code in SEEN_WHEN_OPENED for code, _ in problems):
        return _Seen(None, problems)
    return _Seen((image.width, image.height) if image.width else (header.width, header.height), problems)


def _differences(image: CocoImage, header: ImageHeader) -> Iterator[tuple[str, str]]:
    """Where the header of an image says something else than its name and the annotations."""
    expected = _FORMATS.get(image.file_name.rpartition(".")[2].lower())
    # MPO is what some cameras make of a JPEG.
    if expected is not None and header.format != expected and (expected, header.format) != ("JPEG", "MPO"):
        yield "mislabelled_image", f"{image.file_name} is {header.format}"
    said, upright = (image.width, image.height), (header.width, header.height)
    if said in ((0, 0), upright):
        return
    if header.rotated and said == upright[::-1]:
        yield "turned_image", image.file_name
    else:
        yield "wrong_size", f"{image.file_name} is {header.width}x{header.height}, not {image.width}x{image.height}"

"""Convert YOLO labels (detection and segmentation) to COCO.

A label file has one line per object: ``class cx cy w h``, or ``class x1 y1 x2 y2 …`` for a polygon, as fractions of the
width and height of the image with EXIF applied, as in Ultralytics. Its path is that of the image with ``labels`` for
``images``, or it is next to the image. An image without a label file has no objects; such images are counted.

Each line is read independently: in files with boxes and polygons, Ultralytics reads boxes as polygons of two points.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from engine.dataset.formats.coco_writer import CocoWriter
from engine.dataset.formats.source_files import Source, identity
from engine.dataset.formats.yolo_layout import NAME_FILES, Layout, read_layout
from engine.dataset.formats.yolo_variants import Shapes
from engine.errors import DataError

KIND = "YOLO"

_NOT_LABELS = re.compile(
    r"(readme|license|notes?|requirements|changelog|train|val|valid|test|trainval|default)(\.\w+)*\.txt"
)
"""Names of text files that are not labels, in lower case, unless an image has the name."""


@dataclass(frozen=True)
class _Labels:
    """The label file of an image.

    Attributes:
        key: Key of the label file; None without one.
        lines: Its non-empty lines, with their numbers from 1.
        size: Width and height of the image in pixels; None if unreadable.
        fault: Reason why the image or its labels cannot be used.
        problem: Problem code of the fault.
    """

    key: str | None
    lines: tuple[tuple[int, str], ...] = ()
    size: tuple[int, int] | None = None
    fault: str = ""
    problem: str | None = None


def convert(source: Source, folder: Path) -> list[str]:
    """Write ``<split>.json`` for each split and return the names of the splits.

    Raises:
        DataError: The dataset contradicts itself, has no class names, or has labels of another task.
    """
    layout = read_layout(source)
    labels = _LabelFiles(source)
    shapes = Shapes(source.uri)
    categories = [{"id": index + 1, "name": one} for index, one in sorted(layout.names.items())]
    for number, (split, images) in enumerate(layout.splits.items()):
        with CocoWriter(folder / f"{split}.json") as writer:
            for image, read in zip(images, source.each(labels.read, images), strict=True):
                _image(writer, image, read, layout, shapes)
            if number == 0:
                _strays(writer, source, labels, layout, shapes)
            writer.close(categories)
    if not labels.found:
        raise DataError(
            f"{source.uri} is a YOLO dataset by {layout.described_by}, but none of its images has a label file: the "
            "labels of images/a.jpg are expected in labels/a.txt, or next to it in a.txt"
        )
    shapes.check()
    return list(layout.splits)


def _image(writer: CocoWriter, image: str, labels: _Labels, layout: Layout, shapes: Shapes) -> None:
    """Write an image with its objects."""
    if labels.problem is not None or labels.size is None:
        said = labels.fault or None
        if labels.problem == "no_label_file":
            writer.image(image, labels.size, problem="no_label_file")
            return
        image_id = writer.image(image, labels.size, problem=labels.problem, converted_from=said)
    else:
        image_id = writer.image(image, labels.size, converted_from=labels.key)
    for number, line in labels.lines:
        _object(writer, image_id, f"{labels.key} line {number}", line, labels.size or (1, 1), layout, shapes)


def _object(
    writer: CocoWriter,
    image_id: int | None,
    place: str,
    line: str,
    size: tuple[int, int],
    layout: Layout,
    shapes: Shapes,
) -> None:
    """Write a line as an object; inspection reports its errors with the location of the line."""
    try:
        index, numbers = parse_line(line)
    except ValueError as error:
        shapes.unread = shapes.unread or line
        writer.bad_object(image_id, next(iter(layout.names), 0) + 1, f"{place}: {error}")
        return
    shapes.add(numbers, size)
    if index not in layout.names:
        place = f"{place}: class {index} of {len(layout.names)} in {layout.described_by}"
    if len(numbers) == 4:
        cx, cy, width, height = numbers
        box = _pixels((cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2), size)
        writer.object(image_id, index + 1, place, box_xyxy=box)
    elif len(numbers) >= 6 and len(numbers) % 2 == 0:
        writer.object(image_id, index + 1, place, polygons=[_pixels(numbers, size)])
    else:
        writer.bad_object(image_id, index + 1, f"{place}: {len(numbers) + 1} numbers are neither box nor polygon")


def parse_line(line: str) -> tuple[int, list[float]]:
    """Return the class index of a line and the numbers after it.

    Raises:
        ValueError: Something is not a finite number; the message shows it.
    """
    words = line.split()
    numbers = []
    for word in words:
        try:
            number = math.nan if "_" in word else float(word)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            hint = ", write a decimal point" if re.fullmatch(r"-?\d+,\d+", word) else ""
            raise ValueError(f"{word[:30]!r} is not a number{hint}")
        numbers.append(number)
    if not numbers[0].is_integer() or abs(numbers[0]) > 1e9:
        raise ValueError(f"the class {words[0][:30]!r} is not a whole number")
    return int(numbers[0]), numbers[1:]


def _pixels(shares: list[float] | tuple[float, ...], size: tuple[int, int]) -> list[float]:
    """Convert alternating x and y from fractions of width and height to pixels."""
    return [share * size[k % 2] for k, share in enumerate(shares)]


class _LabelFiles:
    """Find and read the label file of an image."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.found = False
        self._by_identity: dict[str, list[str]] = defaultdict(list)
        for key in source.keys(".txt"):
            self._by_identity[identity(key)].append(key)

    def find(self, image: str) -> str | None:
        """Return the key of an image's label file.

        Raises:
            DataError: Several files match.
        """
        keys = self._by_identity.get(identity(image), [])
        if len(keys) > 1:
            usual = _usual_label(image)
            if usual in keys:
                return usual
            raise DataError(f"{image} may have its labels in {' or '.join(keys[:3])}: keep one of them")
        self.found = self.found or bool(keys)
        return keys[0] if keys else None

    def read(self, image: str) -> _Labels:
        """Return the labels of an image, with its size."""
        key = self.find(image)
        if image not in self.source.image_files:
            return _Labels(key, size=None)
        try:
            size = self.source.image_size(image)
        except DataError as error:
            return _Labels(key, self._lines(key), None, str(error), "unreadable_image")
        if key is None:
            return _Labels(None, (), size, "", "no_label_file")
        try:
            return _Labels(key, self._lines(key), size)
        except DataError as error:
            return _Labels(key, (), size, str(error), "unreadable_labels")

    def _lines(self, key: str | None) -> tuple[tuple[int, str], ...]:
        return () if key is None else label_lines(self.source.text(key))

    def strays(self) -> list[str]:
        """Return the label files without an image."""
        images = self.source.images_by_identity
        return [
            key
            for one, keys in self._by_identity.items()
            if one not in images
            for key in keys
            if key != self.source.chosen and not is_other_text(key)
        ]


def label_lines(text: str) -> tuple[tuple[int, str], ...]:
    """Return the non-empty lines, with their numbers from 1."""
    return tuple((number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip())


def _usual_label(image: str) -> str:
    """Return the path that Ultralytics uses: the last ``/images/`` of the path becomes ``/labels/``."""
    head, separator, tail = f"/{image}".rpartition("/images/")
    path = f"{head}/labels/{tail}" if separator else f"/{image}"
    return path[1:].rpartition(".")[0] + ".txt"


def is_other_text(key: str) -> bool:
    """Test by its name whether a text file contains something other than labels."""
    last = posixpath.basename(key).lower()
    return last in NAME_FILES or _NOT_LABELS.fullmatch(last) is not None


def _strays(writer: CocoWriter, source: Source, labels: _LabelFiles, layout: Layout, shapes: Shapes) -> None:
    """Write the objects of label files without an image, which inspection counts."""
    for key in labels.strays():
        try:
            lines = label_lines(source.text(key))
            parsed = [parse_line(line) for _, line in lines]
        except (DataError, ValueError):
            continue  # some other text
        if any(len(numbers) >= 4 for _, numbers in parsed):
            for number, line in lines:
                _object(writer, None, f"{key} line {number}", line, (1, 1), layout, shapes)

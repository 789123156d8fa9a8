"""Write COCO as a stream, for all converters.

Objects have ``converted_from``, the source file with the line or number, so that problems found by inspection can be
looked up in the user's own files. An image with unusable labels has the problem's code.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Self

Polygon = Sequence[float]
"""x, y, x, y … in pixels."""

LARGEST_NUMBER = 1e9
"""Upper bound of coordinates in pixels: sums and products of larger ones may be infinite, which JSON cannot express."""

DECIMALS = 4
"""Decimals of a pixel to keep: label files have fractions with six digits."""


class Classes:
    """Classes by name, shared by all splits of a dataset; ids count from 1 in the order of the names."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.ids: dict[str, int] = {}
        for class_name in names:
            self.id_of(class_name)

    def id_of(self, class_name: str) -> int | None:
        """Return the id of a class, a new id for a new name; None without a name."""
        class_name = class_name.strip()
        return self.ids.setdefault(class_name, len(self.ids) + 1) if class_name else None

    def categories(self) -> list[dict[str, Any]]:
        """Return the ``categories`` list of COCO."""
        return [{"id": class_id, "name": class_name} for class_name, class_id in self.ids.items()]


class CocoWriter:
    """Write one split in constant memory. Images and objects may come in any order.

    Args:
        path: The file to write.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._objects = TemporaryFile("w+", encoding="utf-8", dir=path.parent)  # noqa: SIM115 - closed by close
        self.images = self.objects = 0
        self._file.write('{"images": [\n')

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._objects.close()

    def image(
        self,
        file_name: str,
        size: tuple[int, int] | None,
        *,
        problem: str | None = None,
        converted_from: str | None = None,
    ) -> int:
        """Write an image and return its id.

        Args:
            file_name: Relative to the folder of the images.
            size: Width and height in pixels, with EXIF applied; None if the format does not have it.
            problem: Problem code of its labels, from :data:`engine.dataset.checks.problem_catalogue.CATALOGUE`.
            converted_from: The label file, and what is wrong in it.
        """
        self.images += 1
        record: dict[str, Any] = {"id": self.images, "file_name": file_name}
        if size is not None:
            record |= {"width": size[0], "height": size[1]}
        if problem is not None:
            record["conversion_problem"] = problem
        if converted_from is not None:
            record["converted_from"] = converted_from
        self._file.write((",\n" if self.images > 1 else "") + _dumps(record))
        return self.images

    def object(
        self,
        image_id: int | None,
        category_id: int | None,
        converted_from: str,
        *,
        box_xyxy: Sequence[float] | None = None,
        polygons: Sequence[Polygon] = (),
        rle: dict[str, Any] | None = None,
        area: float | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        """Write an object; inspection counts and leaves out an object without box, polygon and mask.

        Args:
            image_id: None for labels without an image.
            category_id: None for an object without a class.
            converted_from: File and position, for messages.
            box_xyxy: Corners in pixels; default: the bounds of the polygons.
            polygons: The outline, in pixels.
            rle: The mask as run lengths; requires ``box_xyxy`` and ``area``.
            area: Area of the mask in pixels.
            extra: Additional keys of the annotation, such as ``attributes``.
        """
        self.objects += 1
        record: dict[str, Any] = {
            "id": self.objects,
            "image_id": image_id,
            "category_id": category_id,
            "converted_from": converted_from[:200],
            "iscrowd": 0,
        }
        if not all(abs(number) < LARGEST_NUMBER for numbers in (box_xyxy or (), *polygons) for number in numbers):
            polygons, box_xyxy, extra = (), None, {"bbox": [0]}
        if box_xyxy is None and polygons:
            box_xyxy = box_around(polygons)
        if box_xyxy is not None:
            left, top, right, bottom = box_xyxy
            record["bbox"] = _rounded((left, top, right - left, bottom - top))
            record["area"] = (right - left) * (bottom - top)
        if polygons:
            record["segmentation"] = [_rounded(polygon) for polygon in polygons]
            record["area"] = sum(map(polygon_area, polygons))
        elif rle is not None:
            record["segmentation"] = rle
        if area is not None:
            record["area"] = area
        if "area" in record:
            record["area"] = round(record["area"], DECIMALS)
        self._objects.write((",\n" if self.objects > 1 else "") + _dumps(record | (extra or {})))

    def bad_object(self, image_id: int | None, category_id: int | None, converted_from: str) -> None:
        """Write an object with unreadable numbers: inspection counts it and leaves it out."""
        self.object(image_id, category_id, converted_from, extra={"bbox": [0]})

    def close(self, categories: Sequence[dict[str, Any]]) -> None:
        """Write the rest: objects follow all images, so that one pass is enough to read the file."""
        self._file.write('\n],\n"annotations": [\n')
        self._objects.seek(0)
        shutil.copyfileobj(self._objects, self._file, 1 << 20)
        self._file.write('\n],\n"categories": ' + _dumps(list(categories)) + "}\n")
        self.__exit__()


def box_around(polygons: Sequence[Polygon]) -> tuple[float, float, float, float]:
    """Return x0, y0, x1, y1 of the box around all points."""
    xs = [x for polygon in polygons for x in polygon[0::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def polygon_area(polygon: Polygon) -> float:
    """Return the area in square pixels, by the shoelace formula."""
    xs, ys = polygon[0::2], polygon[1::2]
    return abs(sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(ys)))) / 2


def ellipse(cx: float, cy: float, rx: float, ry: float, angle: float = 0.0, *, points: int = 64) -> list[float]:
    """Return an ellipse as a polygon; ``angle`` in radians. Its extreme points are vertices, so that its box is
    exact.
    """
    cos, sin = math.cos(angle), math.sin(angle)
    polygon: list[float] = []
    for k in range(points):
        x, y = rx * math.cos(2 * math.pi * k / points), ry * math.sin(2 * math.pi * k / points)
        polygon += [cx + x * cos - y * sin, cy + x * sin + y * cos]
    return polygon


def _rounded(numbers: Sequence[float]) -> list[float]:
    return [round(number, DECIMALS) for number in numbers]


def _dumps(value: object) -> str:
    # JSON may contain half a surrogate pair, which UTF-8 cannot encode: it is written as an escape.
    return json.dumps(value, ensure_ascii=True, allow_nan=False)

"""Convert LabelMe JSON to COCO: one file per image, with polygons, rectangles, circles and masks in pixels.

Shapes with the same label and ``group_id`` are pieces of one object, as in LabelMe's own converter. Points and lines
have no area: they are counted and left out. An embedded image (``imageData``) is not read.
"""

from __future__ import annotations

import base64
import binascii
import math
import posixpath
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from engine.dataset.formats.coco_writer import Classes, CocoWriter, Polygon, ellipse
from engine.dataset.formats.label_json import number, parse_json
from engine.dataset.formats.source_files import Source, by_folder, complete, identity
from engine.dataset.masks import encode_mask
from engine.errors import DataError

KIND = "LabelMe"

MOST_PIXELS = 179_000_000
"""Maximum pixels of a mask, as of images."""

IGNORED = "__ignore__"
"""Label of regions that are not objects; LabelMe's own converters leave them out too."""

NO_AREA = ("point", "points", "line", "linestrip", "lines")


@dataclass(frozen=True)
class _Piece:
    """One shape, or its error (``fault``); without polygon and mask it has no area."""

    place: str
    polygon: Polygon = ()
    is_rectangle: bool = False
    rle: dict[str, Any] | None = None
    box_xyxy: tuple[float, float, float, float] | None = None
    area: float | None = None
    fault: str = ""


@dataclass(frozen=True)
class _File:
    """One JSON file: its image, and its pieces by (label, group)."""

    key: str
    file_name: str
    size: tuple[int, int] | None = None
    objects: tuple[tuple[str, tuple[_Piece, ...]], ...] = ()
    fault: str = ""


def convert(source: Source, folder: Path) -> list[str]:
    """Write ``<split>.json`` for each split and return the names of the splits.

    Raises:
        DataError: Its folders are not usable splits.
    """
    classes = Classes()
    splits = complete(by_folder(source.keys(".json")), source.uri)
    for split, keys in splits.items():
        with CocoWriter(folder / f"{split}.json") as writer:
            for file in source.each(lambda key: _read(source, key), keys):
                if file is None:
                    continue
                problem = "unreadable_labels" if file.fault else None
                image_id = writer.image(
                    file.file_name, file.size, problem=problem, converted_from=file.fault or file.key
                )
                for label, pieces in file.objects:
                    _write(writer, image_id, classes.id_of(label), pieces)
            writer.close(classes.categories())
    return list(splits)


def _write(writer: CocoWriter, image_id: int, class_id: int | None, pieces: Sequence[_Piece]) -> None:
    """Write the pieces of one object."""
    first = pieces[0]
    place = first.place if len(pieces) == 1 else f"{first.place} and {len(pieces) - 1} of its group"
    fault = next((piece.fault for piece in pieces if piece.fault), "")
    if fault:
        writer.bad_object(image_id, class_id, f"{place}: {fault}")
    elif first.rle is not None:
        for piece in pieces:  # several masks of a group are separate objects in LabelMe
            writer.object(image_id, class_id, piece.place, box_xyxy=piece.box_xyxy, rle=piece.rle, area=piece.area)
    elif all(piece.is_rectangle for piece in pieces):
        writer.object(image_id, class_id, place, box_xyxy=_around(pieces))
    else:
        writer.object(image_id, class_id, place, polygons=[piece.polygon for piece in pieces if piece.polygon])


def _around(pieces: Sequence[_Piece]) -> tuple[float, float, float, float]:
    points = np.array(
        [point for piece in pieces for point in zip(piece.polygon[::2], piece.polygon[1::2], strict=True)]
    )
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return left, top, right, bottom


def _read(source: Source, key: str) -> _File | None:
    """Read one file; None for JSON without an image that is not a LabelMe file."""
    beside = source.images_by_identity.get(identity(key), [])
    try:
        content = parse_json(source.read(key), key)
        shapes = content.get("shapes") if isinstance(content, dict) else None
        if not isinstance(shapes, list):
            if not beside:
                return None
            raise DataError(f"{key} is not a LabelMe file: it has no list of shapes")
    except DataError as error:
        return _File(key, beside[0] if beside else posixpath.splitext(key)[0], fault=str(error))
    size = _size(content)
    objects: dict[tuple[Any, ...], list[_Piece]] = defaultdict(list)
    for position, shape in enumerate(shapes, start=1):
        shape = shape if isinstance(shape, dict) else {}
        label, group = str(shape.get("label") or ""), shape.get("group_id")
        if label == IGNORED:
            continue
        piece = _piece(shape, f"{key} shape {position}", size)
        alone = group is None or piece.rle is not None or not (piece.polygon or piece.fault)
        objects[(label, position, None) if alone else (label, 0, str(group))].append(piece)
    image = _image_of(source, key, content.get("imagePath"), beside)
    if image in source.image_files and beside and image not in beside:
        said = f"{key} has imagePath {content['imagePath']!r}, but {beside[0]} has its name: rename one, or correct it"
        return _File(key, beside[0], fault=said)
    found = tuple((str(label), tuple(pieces)) for (label, *_), pieces in objects.items())
    return _File(key, image, size or source.known_size(image), found)


def _image_of(source: Source, key: str, path: Any, beside: list[str]) -> str:
    """Return the key of the image: ``imagePath`` is relative to the file, or from another machine: then its file name
    counts.
    """
    written = path.replace("\\", "/").strip() if isinstance(path, str) else ""
    above = posixpath.dirname(key)
    last = posixpath.basename(written)
    for candidate in (posixpath.normpath(posixpath.join(above, written)), posixpath.join(above, last)):
        if written and candidate in source.image_files:
            return candidate
    same = [one for one in source.images_by_identity.get(identity(posixpath.join(above, last)), []) if _last(one, last)]
    if written and len(same) == 1:
        return same[0]
    if not written and len(beside) == 1:
        return beside[0]
    return posixpath.join(above, last) if last else posixpath.splitext(key)[0]


def _last(key: str, last: str) -> bool:
    return posixpath.basename(key) == last


def _size(content: dict[str, Any]) -> tuple[int, int] | None:
    try:
        width, height = (int(number(content.get(side))) for side in ("imageWidth", "imageHeight"))
    except ValueError:
        return None
    return (width, height) if min(width, height) >= 1 and max(width, height) < 1e6 else None


def _piece(shape: dict[str, Any], place: str, size: tuple[int, int] | None) -> _Piece:
    kind = shape.get("shape_type") or "polygon"
    try:
        points = [(number(x), number(y)) for x, y in shape.get("points") or ()]
        if kind == "mask":
            return _mask(shape, place, points, size)
        if kind == "rectangle" and len(points) in (2, 4):
            xs, ys = [x for x, _ in points], [y for _, y in points]
            left, top, right, bottom = min(xs), min(ys), max(xs), max(ys)
            return _Piece(place, [left, top, right, top, right, bottom, left, bottom], is_rectangle=True)
        if kind == "circle" and len(points) == 2:
            (cx, cy), edge = points[0], points[1]
            radius = math.dist((cx, cy), edge)
            return _Piece(place, ellipse(cx, cy, radius, radius))
        if kind == "polygon" and len(points) >= 3:
            return _Piece(place, [value for point in points for value in point])
    except ValueError as error:
        return _Piece(place, fault=str(error))
    except TypeError:
        return _Piece(place, fault="points are not a list of x and y")
    if kind in ("polygon", "rectangle", "circle"):
        return _Piece(f"{place} ({str(kind)[:30]} of {len(points)} points)")
    return _Piece(f"{place} ({str(kind)[:30]}{', has no area' if kind in NO_AREA else ', which is not read'})")


def _mask(shape: dict[str, Any], place: str, points: list[tuple[float, float]], size: tuple[int, int] | None) -> _Piece:
    """Decode a mask: a PNG of the pixels in a box whose two inclusive corners are the points.

    Raises:
        ValueError: It cannot be read.
    """
    if size is None or len(points) != 2 or size[0] * size[1] > MOST_PIXELS:
        raise ValueError("a mask needs two points, imageWidth and imageHeight")
    try:
        data = base64.b64decode(str(shape.get("mask") or ""))
        with Image.open(BytesIO(data), formats=("PNG",)) as image:
            if image.size[0] > size[0] + 1 or image.size[1] > size[1] + 1:
                raise ValueError("its mask is larger than its image")
            pixels = np.asarray(image.convert("L")) > 0
    except (binascii.Error, OSError, SyntaxError, Image.DecompressionBombError):
        raise ValueError("its mask is not a PNG in base64") from None
    left, top = (round(value) for value in points[0])
    whole = np.zeros((size[1], size[0]), np.bool_)
    if not (0 <= left < size[0] and 0 <= top < size[1]):
        raise ValueError("its mask begins outside of its image")
    height, width = min(pixels.shape[0], size[1] - top), min(pixels.shape[1], size[0] - left)
    whole[top : top + height, left : left + width] = pixels[:height, :width]
    rows, columns = np.flatnonzero(whole.any(axis=1)), np.flatnonzero(whole.any(axis=0))
    if not len(rows):
        raise ValueError("its mask has no pixel")
    rle = encode_mask(whole)
    box = float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
    rle = {**rle, "counts": rle["counts"].decode("ascii")}
    return _Piece(place, rle=rle, box_xyxy=box, area=float(whole.sum()))

"""Typed records of the elements of a COCO file, for fast decoding.

Values of other types than COCO's (numbers in quotes, floats as ids) are read leniently, one element at a time.
"""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

from engine.dataset.types import ImageId

NO_SEGMENTATION = msgspec.Raw(b"null")


class RawImage(msgspec.Struct, gc=False):
    """An element of ``images``."""

    id: int | str | None = None
    file_name: str | None = None
    width: float | None = None
    height: float | None = None
    conversion_problem: str | None = None
    """Problem code of its labels, if the file was converted from another format."""
    converted_from: str | None = None
    """The label file of the image, and what is wrong in it."""


class RawAnnotation(msgspec.Struct, gc=False):
    """An element of ``annotations``. The segmentation stays unparsed, since it has most of a file's bytes."""

    id: int | str | None = None
    image_id: int | str | None = None
    category_id: int | str | None = None
    bbox: list[float] | None = None
    area: float | None = None
    iscrowd: int | bool | None = 0
    segmentation: msgspec.Raw = NO_SEGMENTATION
    caption: msgspec.Raw | None = None
    segments_info: msgspec.Raw | None = None
    converted_from: str | None = None
    """Label file and position of the object, if the file was converted from another format."""
    attributes: msgspec.Raw | None = None
    rotation: msgspec.Raw | None = None
    angle: msgspec.Raw | None = None
    theta: msgspec.Raw | None = None


class RawCategory(msgspec.Struct, gc=False):
    """An element of ``categories``."""

    id: int | str | None = None
    name: str | None = None
    supercategory: str | None = None


RECORDS: dict[str, type[msgspec.Struct]] = {
    "images": RawImage,
    "annotations": RawAnnotation,
    "categories": RawCategory,
}
_DECODERS = {
    section: msgspec.json.Decoder(list[record], strict=False)  # type: ignore[valid-type]
    for section, record in RECORDS.items()
}
_ONE = {section: msgspec.json.Decoder(record, strict=False) for section, record in RECORDS.items()}
_RAW = msgspec.json.Decoder(list[msgspec.Raw])


def decode(section: str, text: bytes) -> list[Any]:
    """Decode a JSON array into records.

    Raises:
        msgspec.DecodeError: It is not a JSON array. (Never its subclass ValidationError.)
        UnicodeDecodeError: It is not UTF-8.
        RecursionError: It is nested too deeply.
    """
    try:
        return _DECODERS[section].decode(text)
    except msgspec.ValidationError:
        return [record(section, element) for element in _RAW.decode(text)]


def raw_elements(text: bytes) -> list[msgspec.Raw]:
    """Return the raw elements of a JSON array; raises the errors of :func:`decode`."""
    return _RAW.decode(text)


def record(section: str, element: msgspec.Raw) -> Any:
    """Decode one element into a record."""
    try:
        return _ONE[section].decode(element)
    except (msgspec.DecodeError, UnicodeDecodeError):
        try:
            return lenient(section, json.loads(bytes(element)))
        except ValueError:  # a number with too many digits, or text that is not UTF-8
            return RECORDS[section]()


def lenient(section: str, element: Any) -> msgspec.Struct:
    """Convert an element with other types than COCO's; values that cannot be converted are left out."""
    if not isinstance(element, dict):
        return RECORDS[section]()
    if section == "images":
        return RawImage(
            id=_id(element.get("id")),
            file_name=_text(element.get("file_name")),
            width=_integer(element.get("width")),
            height=_integer(element.get("height")),
            conversion_problem=_text(element.get("conversion_problem")),
            converted_from=_text(element.get("converted_from")),
        )
    if section == "categories":
        return RawCategory(
            id=_id(element.get("id")),
            name=_text(element.get("name")),
            supercategory=_text(element.get("supercategory")),
        )
    box = element.get("bbox")
    return RawAnnotation(
        id=_id(element.get("id")),
        image_id=_id(element.get("image_id")),
        category_id=_id(element.get("category_id")),
        bbox=[_number(value) for value in box] if isinstance(box, list) else None,
        area=_number(element.get("area")),
        iscrowd=_integer(element.get("iscrowd")) or 0,
        segmentation=msgspec.Raw(json.dumps(element.get("segmentation")).encode()),
        caption=msgspec.Raw(b"1") if "caption" in element else None,
        segments_info=msgspec.Raw(b"1") if "segments_info" in element else None,
        converted_from=_text(element.get("converted_from")),
        attributes=_raw(element.get("attributes")),
        rotation=_raw(element.get("rotation")),
        angle=_raw(element.get("angle")),
        theta=_raw(element.get("theta")),
    )


def _raw(value: Any) -> msgspec.Raw | None:
    return None if value is None else msgspec.Raw(json.dumps(value).encode())


def _id(value: Any) -> ImageId | None:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None if value is None else str(value)


def _integer(value: Any) -> int | None:
    number = _number(value)
    return int(number) if math.isfinite(number) else None


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan

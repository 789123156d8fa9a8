"""Read a field of the image records of a COCO file, such as ``video_id``, that groups images for a split."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from engine.dataset.coco_reader import CocoReader
from engine.errors import DataError
from engine.storage import Storage

LONGEST = 256
"""Maximum characters of a value; the rest is ignored."""


def read_field(annotations: str, field: str, *, storage: Storage) -> list[tuple[str, str]]:
    """Return file name and field value of each image, as text, in file order; empty if the image lacks the field.

    Args:
        annotations: COCO file.
        field: Name of the field.
        storage: Access to the file.

    Raises:
        DataError: The file is not a COCO dataset, or no image has the field.
        StorageError: It cannot be fetched.
    """
    values: list[tuple[str, str]] = []
    with storage.open_checked(annotations) as stream:
        for section, block in CocoReader(stream, source=annotations, raw=True).blocks():
            if section == "images":
                values += [_value(element, field) for element in block]
    if not any(value for _, value in values):
        raise DataError(
            f"no image of {annotations} has a field {field}, by which images are grouped (groupBy): name another field "
            "of the image records, or group by Folder or Prefix:_"
        )
    return values


def _value(element: msgspec.Raw, field: str) -> tuple[str, str]:
    try:
        record: Any = json.loads(bytes(element))
    except (ValueError, RecursionError):
        return "", ""
    if not isinstance(record, dict):
        return "", ""
    value = record.get(field)
    text = "" if value is None or value == "" else json.dumps(value, sort_keys=True)[:LONGEST]
    return str(record.get("file_name") or ""), text

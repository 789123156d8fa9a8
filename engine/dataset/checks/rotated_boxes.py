"""Rotated rectangles: COCO has upright boxes only, and tools write the angle next to them.

CVAT writes the rectangle before rotation as ``bbox`` and the angle in degrees, around the center, as
``attributes.rotation``. Some tools write ``rotation``, ``angle`` or ``theta`` into the annotation itself, with the box
either before or after rotation: the box is then unknown unless a mask shows it.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.dataset.coco_records import RawAnnotation

NAME = "rotation"
LEAST = 0.05
"""A rectangle rotated by fewer degrees counts as upright."""


def angles(annotations: list[RawAnnotation]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the rotation of N boxes in degrees.

    Returns:
        (N,) float64 in -180..180, 0 for an upright box; (N,) bool, True if it is unclear whether the box was written
        before or after rotation.
    """
    found, unclear = np.zeros(len(annotations)), np.zeros(len(annotations), np.bool_)
    said = [i for i, a in enumerate(annotations) if a.attributes or a.rotation or a.angle or a.theta]
    for i in said:
        annotation = annotations[i]
        own = annotation.rotation or annotation.angle or annotation.theta
        if annotation.attributes is not None and b"rotation" in bytes(annotation.attributes):
            found[i] = _degrees(_attribute(annotation.attributes))
        if own is not None and not found[i]:
            found[i] = _degrees(_decoded(own))
            unclear[i] = found[i] != 0
    return found, unclear


def upright(boxes_xywh: NDArray[np.float64], degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (N, 4) x, y, width, height of the upright boxes around N rectangles rotated around their center."""
    center = boxes_xywh[:, :2] + boxes_xywh[:, 2:] / 2
    cosine, sine = np.abs(np.cos(np.radians(degrees))), np.abs(np.sin(np.radians(degrees)))
    width, height = boxes_xywh[:, 2], boxes_xywh[:, 3]
    sides = np.stack([width * cosine + height * sine, width * sine + height * cosine], axis=1)
    return np.concatenate([center - sides / 2, sides], axis=1)


def _attribute(text: msgspec.Raw) -> Any:
    """Return the attribute ``rotation`` of a mapping or of a list of names and values."""
    attributes = _decoded(text)
    if isinstance(attributes, list):
        named = [one for one in attributes if isinstance(one, dict) and one.get("name") == NAME]
        return named[0].get("value") if named else None
    return attributes.get(NAME) if isinstance(attributes, dict) else None


def _decoded(text: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _degrees(value: Any) -> float:
    """Return the angle in -180..180; 0 if it is not an angle or negligible."""
    try:
        number = 0.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    if not math.isfinite(number):
        return 0.0
    degrees = math.remainder(number, 360)
    return 0.0 if abs(math.remainder(degrees, 180)) < LEAST else degrees

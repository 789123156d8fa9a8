"""What the segmentations of a block of annotations are, most of them told from a glance at their bytes.

Most of a file's bytes are in polygons, and parsing each would take longer than all else. Counting its commas tells
whether a polygon has points enough and each its x and y; only what may be a box in disguise, run lengths and what is
out of the ordinary is parsed, run lengths of a whole block at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.dataset.masks import box_of_segmentation
from engine.dataset.run_lengths import area_of_counts, areas_of_texts

FARTHEST = 1e5
"""Pixels from the image that no point of a polygon reaches: drawing it would take for ever."""

SAME = 0.1
"""Pixels between coordinates that are the same but for rounding."""

Box = tuple[float, float, float, float]


class MaskKind(IntEnum):
    """What the segmentation of an annotation is."""

    NONE = 0
    POLYGONS = 1
    RECTANGLE = 2
    """One polygon that is an upright rectangle, as tools write it that have boxes only."""
    RUN_LENGTHS = 3
    BAD = 4


_PERHAPS_RECTANGLE, _PERHAPS_RUN_LENGTHS, _UNSURE = 10, 11, 12
_POLYGONS = msgspec.json.Decoder(list[list[float]], strict=False)


class _RunLengths(msgspec.Struct, gc=False):
    size: list[int]
    counts: str | list[int]


_RUN_LENGTHS = msgspec.json.Decoder(_RunLengths, strict=False)


def classify(segmentations: Sequence[msgspec.Raw], sizes: NDArray[np.float64]) -> NDArray[np.int8]:
    """(N,) :class:`MaskKind` of N segmentations.

    Args:
        segmentations: As they stand in the file.
        sizes: (N, 2) width and height of the image of each, 0 where unknown.
    """
    kinds = np.array([_glance(bytes(raw)) for raw in segmentations], np.int8)
    rectangles = np.flatnonzero(kinds == _PERHAPS_RECTANGLE)
    kinds[rectangles] = _rectangles([segmentations[int(i)] for i in rectangles])
    run_lengths = np.flatnonzero(kinds == _PERHAPS_RUN_LENGTHS)
    kinds[run_lengths] = _run_lengths([segmentations[int(i)] for i in run_lengths], sizes[run_lengths])
    for i in np.flatnonzero(kinds == _UNSURE):
        parsed = parse(segmentations[int(i)])
        kinds[i] = MaskKind.BAD if parsed is None else MaskKind.POLYGONS if parsed else MaskKind.NONE
    return kinds


def parse(segmentation: msgspec.Raw) -> Any:
    """Polygons of three points or more, or run lengths; ``[]`` for no mask, None for one that makes no sense."""
    try:
        if bytes(segmentation)[:1] == b"{":
            found = _RUN_LENGTHS.decode(segmentation)
            return {"size": found.size, "counts": found.counts}
        plain = msgspec.json.decode(segmentation)
        if not plain or plain == [[]]:
            return []
        if not isinstance(plain[0], list):
            plain = [plain]  # one polygon without the list around it
        polygons: list[list[float]] = msgspec.convert(plain, list[list[float]], strict=False)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError, KeyError):
        return None
    numbers = [value for polygon in polygons for value in polygon]
    if any(len(polygon) % 2 for polygon in polygons) or not all(abs(value) < FARTHEST for value in numbers):
        return None
    return [polygon for polygon in polygons if len(polygon) >= 6] or None


def box_around(segmentation: msgspec.Raw, kind: int, size: NDArray[np.float64]) -> Box | None:
    """x, y, width, height of the box around a mask; None if it has none.

    Args:
        segmentation: As it stands in the file.
        kind: What :func:`classify` says it is.
        size: Width and height of the image, 0 where unknown.
    """
    if kind in (MaskKind.NONE, MaskKind.BAD):
        return None
    parsed = parse(segmentation)
    if not parsed:
        return None
    height, width = parsed["size"] if kind == MaskKind.RUN_LENGTHS else (int(size[1]), int(size[0]))
    box = box_of_segmentation(parsed, height, width)
    return box if min(box[2:]) > 0 else None


def _glance(text: bytes) -> int:
    if text[:2] == b"[[":
        if text.find(b"[", 2) < 0:
            commas = text.count(b",")
            if commas in (7, 9):
                return _PERHAPS_RECTANGLE
            return MaskKind.POLYGONS if commas >= 5 and commas % 2 else _UNSURE
        counts = [polygon.count(b",") for polygon in text.split(b"[")[2:]]
        counts[-1] += 1  # after all others stands a comma
        regular = all(count and count % 2 == 0 for count in counts) and max(counts) >= 6
        return MaskKind.POLYGONS if regular else _UNSURE
    if text in (b"[]", b"null", b"{}"):
        return MaskKind.NONE
    return _PERHAPS_RUN_LENGTHS if text[:1] == b"{" else _UNSURE


def _rectangles(texts: list[msgspec.Raw]) -> NDArray[np.int8]:
    """Which polygons of four points, or of five where the last closes them, are upright rectangles."""
    kinds = np.full(len(texts), MaskKind.BAD, np.int8)
    points = np.full((len(texts), 5, 2), np.nan)
    for i, text in enumerate(texts):
        try:
            flat = _POLYGONS.decode(text)[0]
            points[i] = np.reshape(flat if len(flat) == 10 else flat + flat[:2], (5, 2))
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
            continue
    fine = (np.abs(points) < FARTHEST).all(axis=(1, 2))
    low, high = points.min(axis=1, keepdims=True), points.max(axis=1, keepdims=True)
    at_border = (np.abs(points - low) < SAME) | (np.abs(points - high) < SAME)
    # Each side of an upright rectangle is level in one direction and as long as the box in the other.
    steps = np.abs(np.diff(points, axis=1))
    level = (steps < SAME).sum(axis=2) == 1
    spans = (high - low).min(axis=2)[:, 0] > SAME
    upright = at_border.all(axis=(1, 2)) & level.all(axis=1) & spans
    kinds[fine] = MaskKind.POLYGONS
    kinds[fine & upright] = MaskKind.RECTANGLE
    return kinds


def _run_lengths(texts: list[msgspec.Raw], sizes: NDArray[np.float64]) -> NDArray[np.int8]:
    """Which run lengths are right: as many pixels as their image has, and some of them set."""
    kinds = np.full(len(texts), MaskKind.BAD, np.int8)
    compressed: list[tuple[int, str, int]] = []
    for i, text in enumerate(texts):
        try:
            found = _RUN_LENGTHS.decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
        width, height = sizes[i]
        if len(found.size) != 2 or not all(1 <= side < FARTHEST for side in found.size):
            continue
        if width > 0 and found.size != [height, width]:
            continue
        pixels = found.size[0] * found.size[1]
        if isinstance(found.counts, str):
            compressed.append((i, found.counts, pixels))
        elif area_of_counts(found.counts, pixels) > 0:
            kinds[i] = MaskKind.RUN_LENGTHS
    areas = areas_of_texts([text for _, text, _ in compressed], [pixels for _, _, pixels in compressed])
    kinds[[i for (i, _, _), area in zip(compressed, areas, strict=True) if area > 0]] = MaskKind.RUN_LENGTHS
    return kinds

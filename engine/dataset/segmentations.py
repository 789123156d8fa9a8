"""Classify the segmentations of a block of annotations, most of them from their raw bytes alone.

Most bytes of a file are polygons, and parsing them all would take longer than everything else. Counting the commas
shows if a polygon has enough points, each with x and y. Only possible rectangles, run lengths and unusual values are
parsed, the run lengths of a whole block together.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from itertools import chain
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from engine.dataset.checks.rle_validation import area_of_counts, areas_of_texts
from engine.dataset.masks import box_of_segmentation
from engine.dataset.types import Rle

FARTHEST = 1e5
"""Maximum distance in pixels of a polygon point from the image: a larger polygon would take too long to draw."""

SAME = 0.1
"""Tolerance in pixels between coordinates that differ only by rounding."""

AT_ONCE = 1000
"""Texts classified at a time: few enough that their characters mostly stay in the processor's cache."""

_SPACE = b" \t\r\n"

Box = tuple[float, float, float, float]


class MaskKind(IntEnum):
    """Kind of the segmentation of an annotation."""

    NONE = 0
    POLYGONS = 1
    RECTANGLE = 2
    """One polygon that is an upright rectangle, as written by tools that have only boxes."""
    RUN_LENGTHS = 3
    BAD = 4


_PERHAPS_RECTANGLE, _PERHAPS_RUN_LENGTHS, _UNSURE = 10, 11, 12
_POLYGONS = msgspec.json.Decoder(list[list[float]], strict=False)
_MANY_POLYGONS = msgspec.json.Decoder(list[list[list[float]]], strict=False)


_Side = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class _RunLengths(msgspec.Struct, gc=False):
    size: tuple[_Side, _Side]
    counts: str | list[int]


_RUN_LENGTHS = msgspec.json.Decoder(_RunLengths, strict=False)
_MANY_RUN_LENGTHS = msgspec.json.Decoder(list[_RunLengths], strict=False)


def classify(segmentations: Sequence[msgspec.Raw], sizes: NDArray[np.float64]) -> NDArray[np.int8]:
    """Return (N,) the :class:`MaskKind` of N segmentations.

    Args:
        segmentations: Raw JSON from the file.
        sizes: (N, 2) width and height of each image in pixels, 0 if unknown.
    """
    parts = range(0, len(segmentations), AT_ONCE)
    kinds = np.concatenate([_glance(segmentations[first : first + AT_ONCE]) for first in parts])
    rectangles = np.flatnonzero(kinds == _PERHAPS_RECTANGLE)
    kinds[rectangles] = _rectangles([segmentations[int(i)] for i in rectangles])
    run_lengths = np.flatnonzero(kinds == _PERHAPS_RUN_LENGTHS)
    kinds[run_lengths] = _run_lengths([segmentations[int(i)] for i in run_lengths], sizes[run_lengths])
    for i in np.flatnonzero(kinds == _UNSURE):
        parsed = parse(segmentations[int(i)])
        kinds[i] = MaskKind.BAD if parsed is None else MaskKind.POLYGONS if parsed else MaskKind.NONE
    return kinds


def parse(segmentation: msgspec.Raw) -> Any:
    """Return polygons of at least three points, or run lengths; ``[]`` without a mask, None for an invalid one."""
    try:
        if bytes(segmentation)[:1] == b"{":
            found = _RUN_LENGTHS.decode(segmentation)
            return {"size": list(found.size), "counts": found.counts}
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


def decode_polygons(segmentations: Sequence[msgspec.Raw]) -> list[list[list[float]] | None]:
    """Return polygons, lists of x, y, of segmentations of :attr:`MaskKind.POLYGONS` or :attr:`MaskKind.RECTANGLE`.

    None for an invalid one.
    """
    texts = list(segmentations)
    decoded = _decoded(texts, _POLYGONS, _MANY_POLYGONS)
    return [
        parse(text) if not polygons or min(map(len, polygons)) < 6 or any(len(p) % 2 for p in polygons) else polygons
        for text, polygons in zip(texts, decoded, strict=True)
    ]


def decode_run_lengths(segmentations: Sequence[msgspec.Raw]) -> list[Rle]:
    """Return the compressed run lengths of segmentations of :attr:`MaskKind.RUN_LENGTHS`, without validation."""
    return [
        {"size": list(found.size), "counts": found.counts.encode("ascii")}
        if isinstance(found.counts, str)
        else coco_mask.frPyObjects({"size": list(found.size), "counts": found.counts}, *found.size)
        for found in _decoded(list(segmentations), _RUN_LENGTHS, _MANY_RUN_LENGTHS)
    ]


def box_around(segmentation: msgspec.Raw, kind: int, size: NDArray[np.float64]) -> Box | None:
    """Return x, y, width, height of the box around a mask in pixels; None without one.

    Args:
        segmentation: Raw JSON from the file.
        kind: Result of :func:`classify`.
        size: Width and height of the image in pixels, 0 if unknown.
    """
    if kind in (MaskKind.NONE, MaskKind.BAD):
        return None
    parsed = parse(segmentation)
    if not parsed:
        return None
    height, width = parsed["size"] if kind == MaskKind.RUN_LENGTHS else (int(size[1]), int(size[0]))
    box = box_of_segmentation(parsed, height, width)
    return box if min(box[2:]) > 0 else None


def _glance(segmentations: Sequence[msgspec.Raw]) -> NDArray[np.int8]:
    """Return the possible kinds of N texts, by their brackets and commas."""
    characters, starts = _joined(segmentations)
    first, second = characters[starts], characters.take(starts + 1, mode="clip")
    is_list, is_object = first == ord("["), first == ord("{")
    for i in np.flatnonzero(is_list & (second <= ord(" "))):
        second[i] = ord(bytes(segmentations[int(i)])[1:].lstrip(_SPACE)[:1])
    lengths = np.diff(starts, append=len(characters)) - 1
    kinds = np.full(len(segmentations), _UNSURE, np.int8)
    kinds[is_object] = _PERHAPS_RUN_LENGTHS
    kinds[(is_list & (second == ord("]"))) | (is_object & (lengths == 2)) | ((first == ord("n")) & (lengths == 4))] = (
        MaskKind.NONE
    )
    nested = is_list & (second == ord("["))
    if nested.any():
        found = characters == ord("[")
        brackets = _count(found, starts)
        numbers = _count(np.equal(characters, ord(","), out=found), starts)
        single = nested & (brackets == 2)
        kinds[single & (numbers >= 6) & (numbers % 2 == 0)] = MaskKind.POLYGONS
        kinds[single & ((numbers == 8) | (numbers == 10))] = _PERHAPS_RECTANGLE
        several = np.flatnonzero(nested & ~single)
        if len(several):
            kinds[several] = _several([segmentations[i] for i in several.tolist()])
    return kinds


def _joined(texts: Sequence[msgspec.Raw]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the characters of N texts, each followed by a comma, so that every number is; (N,) start positions."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    return np.frombuffer(b",".join((*texts, b"")), np.uint8), np.cumsum(lengths + 1) - lengths - 1


def _count(found: NDArray[np.bool_], starts: NDArray[np.int64]) -> NDArray[np.integer[Any]]:
    """Return (N,) the number of true values from each start to the next one."""
    # Adding two bytes is twice as fast as adding four.
    size = np.uint16 if np.diff(starts, append=len(found)).max() < 1 << 16 else np.int64
    return np.asarray(np.add.reduceat(found.view(np.uint8), starts, dtype=size))


def _several(texts: list[msgspec.Raw]) -> NDArray[np.int8]:
    """Return the kinds of lists of lists, by the count of numbers in each inner list."""
    characters, starts = _joined(texts)
    brackets = np.flatnonzero(characters == ord("["))
    numbers = _count(characters == ord(","), brackets)
    begins = np.searchsorted(brackets, starts) + 1
    ends = np.append(begins[1:] - 1, len(brackets))

    def among(condition: NDArray[np.bool_]) -> NDArray[np.int64]:
        counts = np.concatenate([[0], np.cumsum(condition)])
        return np.asarray(counts[ends] - counts[begins])

    regular = (among((numbers == 0) | (numbers % 2 == 1)) == 0) & (among(numbers >= 6) > 0)
    return np.where(regular, MaskKind.POLYGONS, _UNSURE).astype(np.int8)


def _rectangles(texts: list[msgspec.Raw]) -> NDArray[np.int8]:
    """Find upright rectangles among polygons of four points, or of five if the last closes them."""
    kinds = np.full(len(texts), MaskKind.BAD, np.int8)
    decoded = _decoded(texts, _POLYGONS, _MANY_POLYGONS)
    for length in (8, 10):
        where = [i for i, polygons in enumerate(decoded) if polygons is not None and len(polygons[0]) == length]
        points = np.array([decoded[i][0] for i in where], np.float64).reshape(-1, length)
        near = (np.abs(points) < FARTHEST).all(axis=1)
        closed = (np.abs(points[:, 8:] - points[:, : length - 8]) < SAME).all(axis=1)
        rectangular = near & closed & _are_upright(points)
        kinds[where] = np.select([rectangular, near], [MaskKind.RECTANGLE, MaskKind.POLYGONS], MaskKind.BAD)
    return kinds


def _are_upright(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return (N,) True if the sides of quadrilaterals, (N, 8 or more) x and y of corners, are alternately horizontal
    and vertical.
    """
    level = [
        [np.abs(points[:, 2 * k + axis] - points[:, (2 * k + 2 + axis) % 8]) < SAME for k in range(4)]
        for axis in (0, 1)
    ]

    def by_turns(x: list[NDArray[np.bool_]], y: list[NDArray[np.bool_]]) -> NDArray[np.bool_]:
        return x[0] & y[1] & x[2] & y[3] & ~y[0] & ~x[1]

    return by_turns(*level) | by_turns(*reversed(level))


def _run_lengths(texts: list[msgspec.Raw], sizes: NDArray[np.float64]) -> NDArray[np.int8]:
    """Find valid run lengths: as many pixels as their image, and some of them set."""
    kinds = np.full(len(texts), MaskKind.BAD, np.int8)
    decoded = _decoded(texts, _RUN_LENGTHS, _MANY_RUN_LENGTHS)
    indices = np.array([i for i, rle in enumerate(decoded) if rle is not None], np.int64)
    if not len(indices):
        return kinds
    found = [rle for rle in decoded if rle is not None]
    said = np.fromiter(chain.from_iterable(rle.size for rle in found), np.int64, 2 * len(found)).reshape(-1, 2)
    expected = sizes[indices][:, ::-1]
    fits = ((said >= 1) & (said < FARTHEST)).all(axis=1) & ((expected == 0) | (said == expected)).all(axis=1)
    pixels = np.where(fits, said.prod(axis=1), -1)
    areas = np.full(len(found), -1, np.int64)
    compressed = np.array([isinstance(rle.counts, str) for rle in found], np.bool_)
    areas[compressed] = areas_of_texts([rle.counts for rle in found if isinstance(rle.counts, str)], pixels[compressed])
    for k in np.flatnonzero(~compressed):
        areas[k] = area_of_counts(found[k].counts, int(pixels[k]))
    kinds[indices[areas > 0]] = MaskKind.RUN_LENGTHS
    return kinds


def _decoded(texts: list[msgspec.Raw], one: msgspec.json.Decoder[Any], many: msgspec.json.Decoder[Any]) -> list[Any]:
    """Decode all texts together; if that fails one by one, with None for those that cannot be decoded."""
    try:
        decoded: list[Any] = many.decode(b"[" + b",".join(texts) + b"]")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        decoded = [_decoded_alone(text, one) for text in texts]
    return decoded


def _decoded_alone(text: msgspec.Raw, decoder: msgspec.json.Decoder[Any]) -> Any:
    try:
        return decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None

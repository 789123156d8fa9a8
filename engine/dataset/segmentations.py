"""What the segmentations of a block of annotations are, most of them told from a glance at their bytes.

Most of a file's bytes are in polygons, and parsing each would take longer than all else. Counting its commas tells
whether a polygon has points enough and each its x and y; only what may be a box in disguise, run lengths and what is
out of the ordinary is parsed, run lengths of a whole block at once.
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
"""Pixels from the image that no point of a polygon reaches: drawing it would take for ever."""

SAME = 0.1
"""Pixels between coordinates that are the same but for rounding."""

AT_ONCE = 1000
"""Texts that are glanced at together: so many that their characters mostly stay in the processor's cache."""

_SPACE = b" \t\r\n"

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
_MANY_POLYGONS = msgspec.json.Decoder(list[list[list[float]]], strict=False)


_Side = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class _RunLengths(msgspec.Struct, gc=False):
    size: tuple[_Side, _Side]
    counts: str | list[int]


_RUN_LENGTHS = msgspec.json.Decoder(_RunLengths, strict=False)
_MANY_RUN_LENGTHS = msgspec.json.Decoder(list[_RunLengths], strict=False)


def classify(segmentations: Sequence[msgspec.Raw], sizes: NDArray[np.float64]) -> NDArray[np.int8]:
    """(N,) :class:`MaskKind` of N segmentations.

    Args:
        segmentations: As they stand in the file.
        sizes: (N, 2) width and height of the image of each, 0 where unknown.
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
    """Polygons of three points or more, or run lengths; ``[]`` for no mask, None for one that makes no sense."""
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
    """Polygons of segmentations that are :attr:`MaskKind.POLYGONS` or :attr:`MaskKind.RECTANGLE`, as lists of x, y.

    None for those that make no sense.
    """
    texts = list(segmentations)
    decoded = _decoded(texts, _POLYGONS, _MANY_POLYGONS)
    return [
        parse(text) if not polygons or min(map(len, polygons)) < 6 or any(len(p) % 2 for p in polygons) else polygons
        for text, polygons in zip(texts, decoded, strict=True)
    ]


def decode_run_lengths(segmentations: Sequence[msgspec.Raw]) -> list[Rle]:
    """Compressed run lengths of segmentations that are :attr:`MaskKind.RUN_LENGTHS`, which are not checked again."""
    return [
        {"size": list(found.size), "counts": found.counts.encode("ascii")}
        if isinstance(found.counts, str)
        else coco_mask.frPyObjects({"size": list(found.size), "counts": found.counts}, *found.size)
        for found in _decoded(list(segmentations), _RUN_LENGTHS, _MANY_RUN_LENGTHS)
    ]


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


def _glance(segmentations: Sequence[msgspec.Raw]) -> NDArray[np.int8]:
    """What N texts are by their brackets and commas, or may be."""
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
    """The characters of N texts, a comma after each, so that one stands after each number; (N,) where each begins."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    return np.frombuffer(b",".join((*texts, b"")), np.uint8), np.cumsum(lengths + 1) - lengths - 1


def _count(found: NDArray[np.bool_], starts: NDArray[np.int64]) -> NDArray[np.integer[Any]]:
    """(N,) how many are true from each start on, up to the next one."""
    # Two bytes are added up twice as fast as four.
    size = np.uint16 if np.diff(starts, append=len(found)).max() < 1 << 16 else np.int64
    return np.asarray(np.add.reduceat(found.view(np.uint8), starts, dtype=size))


def _several(texts: list[msgspec.Raw]) -> NDArray[np.int8]:
    """The kinds of lists of any number of lists, by the numbers in each of the inner ones."""
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
    """Which polygons of four points, or of five where the last closes them, are upright rectangles."""
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
    """(N,) whether the sides of N quadrilaterals, (N, 8 or more) x and y of corners, run along x and y by turns."""
    level = [
        [np.abs(points[:, 2 * k + axis] - points[:, (2 * k + 2 + axis) % 8]) < SAME for k in range(4)]
        for axis in (0, 1)
    ]

    def by_turns(x: list[NDArray[np.bool_]], y: list[NDArray[np.bool_]]) -> NDArray[np.bool_]:
        return x[0] & y[1] & x[2] & y[3] & ~y[0] & ~x[1]

    return by_turns(*level) | by_turns(*reversed(level))


def _run_lengths(texts: list[msgspec.Raw], sizes: NDArray[np.float64]) -> NDArray[np.int8]:
    """Which run lengths are right: as many pixels as their image has, and some of them set."""
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
    """All texts decoded at once, or else one by one with None for those that cannot be."""
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

"""Which annotations are usable objects: one set of rules for inspecting, loading and splitting.

Blocks of some thousand annotations are judged at once, in arrays; only what is out of the ordinary is looked at alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.dataset.masks import box_of_segmentation
from engine.dataset.records import RawAnnotation
from engine.dataset.types import ImageId

HUGE = 1e7
"""Pixels that no coordinate reaches."""


class Verdict(IntEnum):
    """What becomes of an annotation."""

    USABLE = 0
    NO_IMAGE = 1
    NO_CLASS = 2
    NO_BOX = 3
    BAD_NUMBERS = 4
    EMPTY_BOX = 5
    OUTSIDE = 6
    IMAGE_LEFT_OUT = 7


class MaskKind(IntEnum):
    """What the segmentation of an annotation is."""

    NONE = 0
    POLYGONS = 1
    RECTANGLE = 2
    """One polygon that is the box itself, as tools write it that have boxes only."""
    RUN_LENGTHS = 3
    BAD = 4


@dataclass(frozen=True, eq=False)
class Judged:
    """A block of N annotations.

    Attributes:
        verdicts: (N,) int8, :class:`Verdict`.
        images: (N,) int64, index of the image, -1 for none, -2 for one that is left out.
        classes: (N,) int64, index of the class, -1 for none.
        boxes_xyxy: (N, 4) float64, in pixels, clipped to the image.
        areas: (N,) float64, square pixels: the file's, or else the box's.
        crowds: (N,) bool.
        masks: (N,) int8, :class:`MaskKind`.
        derived: (N,) bool: the box comes from the mask.
        clipped: (N,) bool: the box reached out of the image by more than a pixel.
        bad_boxes: (N,) bool: the file's box could not be used, whatever became of the annotation.
    """

    verdicts: NDArray[np.int8]
    images: NDArray[np.int64]
    classes: NDArray[np.int64]
    boxes_xyxy: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowds: NDArray[np.bool_]
    masks: NDArray[np.int8]
    derived: NDArray[np.bool_]
    clipped: NDArray[np.bool_]
    bad_boxes: NDArray[np.bool_]

    @property
    def usable(self) -> NDArray[np.bool_]:
        """(N,) bool: the annotations that are objects."""
        return np.equal(self.verdicts, Verdict.USABLE)


def judge(
    annotations: list[RawAnnotation],
    *,
    image_index: Mapping[ImageId | None, int],
    image_sizes: NDArray[np.float64],
    class_index: Mapping[ImageId | None, int],
) -> Judged:
    """Judge a block of annotations.

    Args:
        annotations: As read.
        image_index: From image id to index; -2 for an image that is left out.
        image_sizes: (images, 2) width and height in pixels, 0 where the file does not say.
        class_index: From category id to class index.
    """
    count = len(annotations)
    images = np.fromiter((image_index.get(a.image_id, -1) for a in annotations), np.int64, count)
    classes = np.fromiter((class_index.get(a.category_id, -1) for a in annotations), np.int64, count)
    crowds = np.fromiter((bool(a.iscrowd) for a in annotations), np.bool_, count)
    boxes = _boxes_xywh(annotations)
    areas = np.fromiter((np.nan if a.area is None else a.area for a in annotations), np.float64, count)
    sizes = image_sizes[images] if len(image_sizes) else np.zeros((count, 2))
    masks = np.fromiter((_mask_kind(a.segmentation) for a in annotations), np.int8, count)

    missing = np.fromiter((not a.bbox for a in annotations), np.bool_, count)
    numbers: NDArray[np.bool_] = np.asarray((np.abs(boxes) < HUGE).all(axis=1))  # NaN is not
    positive = numbers & (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
    derived = np.zeros(count, np.bool_)
    for i in np.flatnonzero(_LOOK[masks] | (~positive & (masks != MaskKind.NONE))):
        masks[i], box = _look(annotations[i].segmentation, boxes[i], sizes[i], kind=int(masks[i]))
        if not positive[i] and box is not None:
            boxes[i], derived[i], positive[i], numbers[i] = box, True, True, True

    boxes_xyxy = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    known = sizes.min(axis=1, initial=np.inf) > 0
    limits = np.where(known[:, None], np.tile(sizes, (1, 2)), np.inf)
    with np.errstate(invalid="ignore"):
        inside = np.clip(boxes_xyxy, 0, limits)
        clipped = (np.abs(inside - boxes_xyxy) > 1).any(axis=1)
        outside = ~((inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1]))
        given = np.isfinite(areas) & (areas > 0)
        areas = np.where(given, areas, (inside[:, 2] - inside[:, 0]) * (inside[:, 3] - inside[:, 1]))

    verdicts = np.select(
        [images == -1, images == -2, classes < 0, missing & ~derived, ~numbers, ~positive, outside],
        [
            Verdict.NO_IMAGE,
            Verdict.IMAGE_LEFT_OUT,
            Verdict.NO_CLASS,
            Verdict.NO_BOX,
            Verdict.BAD_NUMBERS,
            Verdict.EMPTY_BOX,
            Verdict.OUTSIDE,
        ],
        Verdict.USABLE,
    ).astype(np.int8)
    return Judged(
        verdicts=verdicts,
        images=images,
        classes=classes,
        boxes_xyxy=inside,
        areas=areas,
        crowds=crowds,
        masks=masks,
        derived=derived,
        clipped=clipped,
        bad_boxes=~missing & (derived | ~positive),
    )


_UNSURE = 9
"""A mask kind to be looked at alone."""

_LOOK = np.zeros(10, np.bool_)
_LOOK[_UNSURE] = True


def _boxes_xywh(annotations: list[RawAnnotation]) -> NDArray[np.float64]:
    """(N, 4) float64; NaN where there is no box of four numbers."""
    nothing = [np.nan] * 4
    rows = [a.bbox if a.bbox is not None and len(a.bbox) == 4 else nothing for a in annotations]
    return np.array(rows, np.float64).reshape(-1, 4)


def _mask_kind(raw: msgspec.Raw) -> int:
    """The kind of a segmentation from a glance at its bytes, or :data:`_UNSURE`."""
    text = bytes(raw)
    if text[:2] == b"[[":
        commas = text.count(b",")
        if text.count(b"[") == 2 and commas % 2 == 1 and commas not in (7, 9) and commas >= 5:
            return MaskKind.POLYGONS
        return _UNSURE
    return MaskKind.NONE if text in (b"[]", b"null", b"{}") else _UNSURE


def parse_segmentation(raw: msgspec.Raw) -> Any:
    """A segmentation as plain lists and mappings."""
    return msgspec.json.decode(raw)


def _look(
    raw: msgspec.Raw, box_xywh: NDArray[np.float64], size: NDArray[np.float64], *, kind: int
) -> tuple[int, tuple[float, float, float, float] | None]:
    """The kind of a segmentation, and the box around it if it is usable."""
    width, height = int(size[0]), int(size[1])
    try:
        segmentation = parse_segmentation(raw)
        if not segmentation or segmentation == [[]]:
            return MaskKind.NONE, None
        if isinstance(segmentation, dict):
            return _look_at_run_lengths(segmentation, height, width)
        if not all(isinstance(polygon, list) for polygon in segmentation):
            segmentation = [segmentation]  # one polygon without the list around it
        if any(len(polygon) % 2 for polygon in segmentation) or not any(len(p) >= 6 for p in segmentation):
            return MaskKind.BAD, None
        around = box_of_segmentation(segmentation, height, width)
        if not np.isfinite(around).all() or min(around[2:]) <= 0:
            return MaskKind.BAD, None
        if len(segmentation) == 1 and _is_rectangle(segmentation[0], box_xywh):
            return MaskKind.RECTANGLE, around
        return MaskKind.POLYGONS, around
    except (TypeError, ValueError, AttributeError, OverflowError, msgspec.DecodeError):
        return MaskKind.BAD, None


def _look_at_run_lengths(
    rle: dict[str, Any], height: int, width: int
) -> tuple[int, tuple[float, float, float, float] | None]:
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not counts:
        return MaskKind.BAD, None
    if width > 0 and size != [height, width]:
        return MaskKind.BAD, None
    if isinstance(counts, list) and (sum(counts) != size[0] * size[1] or min(counts) < 0):
        return MaskKind.BAD, None
    if isinstance(counts, str) and sum(run_lengths(counts)) != size[0] * size[1]:
        return MaskKind.BAD, None
    around = box_of_segmentation(rle, size[0], size[1])
    return (MaskKind.RUN_LENGTHS, around) if min(around[2:]) > 0 else (MaskKind.BAD, None)


def run_lengths(counts: str) -> list[int]:
    """The counts in COCO's compressed text, as pycocotools' ``rleFrString`` reads them.

    pycocotools itself trusts the text, and reads and writes out of bounds where it lies.

    Raises:
        ValueError: The text ends within a number.
    """
    numbers: list[int] = []
    value = shift = 0
    more = False
    for byte in counts.encode("ascii"):
        code = byte - 48
        value |= (code & 0x1F) << shift
        shift += 5
        more = bool(code & 0x20)
        if not more:
            if code & 0x10:
                value -= 1 << shift
            numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
            if numbers[-1] < 0:
                raise ValueError("a run length is negative")
            value = shift = 0
    if more:
        raise ValueError("the run lengths end within a number")
    return numbers


def _is_rectangle(polygon: list[float], box_xywh: NDArray[np.float64]) -> bool:
    """Whether a polygon of four (or, closed, five) points is the box, to a pixel."""
    if len(polygon) not in (8, 10) or not np.isfinite(box_xywh).all():
        return False
    points = np.asarray(polygon, np.float64).reshape(-1, 2)
    x, y, w, h = box_xywh
    on_x = np.minimum(np.abs(points[:, 0] - x), np.abs(points[:, 0] - x - w)) <= 1
    on_y = np.minimum(np.abs(points[:, 1] - y), np.abs(points[:, 1] - y - h)) <= 1
    spans = np.ptp(points, axis=0)
    return bool((on_x & on_y).all() and abs(spans[0] - w) <= 1 and abs(spans[1] - h) <= 1)

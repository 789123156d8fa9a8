"""Which annotations are usable objects: one set of rules for inspecting, loading and splitting.

Blocks of some thousand annotations are judged at once, in arrays; only what is out of the ordinary is looked at alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from engine.dataset.ids import IdIndex
from engine.dataset.records import RawAnnotation
from engine.dataset.segmentations import MaskKind, box_around, classify
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
    image_index: IdIndex,
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
    images = image_index.match([a.image_id for a in annotations])
    classes = _look_up([a.category_id for a in annotations], class_index)
    crowds = np.array([bool(a.iscrowd) for a in annotations], np.bool_)
    boxes, missing = _boxes_xywh([a.bbox for a in annotations])
    areas = np.array([a.area for a in annotations], np.float64)  # NaN for None
    sizes = np.zeros((len(annotations), 2))  # unknown for annotations without an image
    sizes[images >= 0] = image_sizes[images[images >= 0]]
    masks = classify([a.segmentation for a in annotations], sizes)

    numbers: NDArray[np.bool_] = np.asarray((np.abs(boxes) < HUGE).all(axis=1))  # NaN is not
    positive = numbers & (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
    derived = np.zeros(len(annotations), np.bool_)
    for i in np.flatnonzero(~positive & (masks != MaskKind.NONE) & (masks != MaskKind.BAD)):
        box = box_around(annotations[i].segmentation, int(masks[i]), sizes[i])
        if box is not None:
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


def _look_up(ids: list[ImageId | None], index: Mapping[ImageId | None, int]) -> NDArray[np.int64]:
    """(N,) the index of each of N ids, -1 for those that have none."""
    known = {one: index.get(one, -1) for one in dict.fromkeys(ids)}
    return np.array([known[one] for one in ids], np.int64)


def _boxes_xywh(boxes: Sequence[Sequence[float] | None]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(N, 4) float64, NaN where there is no box of four numbers; (N,) bool, where there is none of any."""
    given = [box or () for box in boxes]
    lengths = np.fromiter(map(len, given), np.int64, len(given))
    if (lengths != 4).any():
        given = [box if len(box) == 4 else [np.nan] * 4 for box in given]
    return np.fromiter(chain.from_iterable(given), np.float64, 4 * len(given)).reshape(-1, 4), lengths == 0

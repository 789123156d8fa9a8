"""Decide which annotations are usable objects: one set of rules for inspection, loading and splitting.

Blocks of a few thousand annotations are validated as arrays; only unusual ones are inspected one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from engine.dataset.checks.box_mask_agreement import Reading, compare
from engine.dataset.checks.mask_bounds import mask_shapes
from engine.dataset.checks.rotated_boxes import angles, upright
from engine.dataset.coco_records import RawAnnotation
from engine.dataset.id_index import IdIndex
from engine.dataset.segmentations import MaskKind, box_around, classify
from engine.dataset.types import ImageId
from engine.spec import Crowds

HUGE = 1e7
"""Coordinates in pixels are always below this."""

PIXELS = 16.0
"""Tolerance of areas in square pixels."""


class AnnotationStatus(IntEnum):
    """Result of validating one annotation."""

    USABLE = 0
    NO_IMAGE = 1
    NO_CLASS = 2
    NO_BOX = 3
    BAD_NUMBERS = 4
    EMPTY_BOX = 5
    OUTSIDE = 6
    IMAGE_LEFT_OUT = 7
    SCALED_BOX = 8
    CORNER_BOX = 9
    CENTER_BOX = 10
    SWAPPED = 11
    SCALED_MASK = 12
    ROW_MASK = 13
    INVERTED_MASK = 14
    NO_PIXEL = 15
    CONTRADICTION = 16
    UNCLEAR_ROTATION = 17
    DUPLICATE = 18


CONTRADICTIONS = {
    Reading.SHARES: AnnotationStatus.SCALED_BOX,
    Reading.CORNERS: AnnotationStatus.CORNER_BOX,
    Reading.CENTER: AnnotationStatus.CENTER_BOX,
    Reading.SWAPPED: AnnotationStatus.SWAPPED,
    Reading.MASK_SHARES: AnnotationStatus.SCALED_MASK,
    Reading.MASK_SCALED: AnnotationStatus.SCALED_MASK,
    Reading.ROWS: AnnotationStatus.ROW_MASK,
    Reading.INVERTED: AnnotationStatus.INVERTED_MASK,
    Reading.NO_PIXEL: AnnotationStatus.NO_PIXEL,
    Reading.UNEXPLAINED: AnnotationStatus.CONTRADICTION,
}
"""Status of objects whose box and mask do not agree, by the likely reading of either."""


@dataclass(frozen=True, eq=False)
class ValidatedAnnotations:
    """A block of N annotations.

    Attributes:
        statuses: (N,) int8, :class:`AnnotationStatus`.
        images: (N,) int64, index of the image, -1 for none, -2 for an image that is left out.
        classes: (N,) int64, index of the class, -1 for none.
        boxes_xyxy: (N, 4) float64, in pixels, clipped to the image.
        areas: (N,) float64, square pixels: from the file, otherwise from the mask or the box.
        crowds: (N,) bool.
        masks: (N,) int8, :class:`MaskKind`.
        derived: (N,) bool: the box comes from the mask.
        clipped: (N,) bool: the box reached out of the image by more than a pixel.
        bad_boxes: (N,) bool: the box in the file is unusable, even if the annotation is used.
        rotated: (N,) bool: the box is the upright one around a rotated rectangle.
        bad_areas: (N,) bool: the area in the file matches neither the mask nor the box.
        image_sizes: (N, 2) float64, width and height of each image in pixels, 0 if unknown.
        given_xywh: (N, 4) float64, the boxes as in the file, NaN if missing.
        given_areas: (N,) float64, the areas as in the file, NaN if missing.
    """

    statuses: NDArray[np.int8]
    images: NDArray[np.int64]
    classes: NDArray[np.int64]
    boxes_xyxy: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowds: NDArray[np.bool_]
    masks: NDArray[np.int8]
    derived: NDArray[np.bool_]
    clipped: NDArray[np.bool_]
    bad_boxes: NDArray[np.bool_]
    rotated: NDArray[np.bool_]
    bad_areas: NDArray[np.bool_]
    image_sizes: NDArray[np.float64]
    given_xywh: NDArray[np.float64]
    given_areas: NDArray[np.float64]

    @property
    def usable(self) -> NDArray[np.bool_]:
        """(N,) bool: the annotations that are objects."""
        return np.equal(self.statuses, AnnotationStatus.USABLE)

    @property
    def contradicts(self) -> bool:
        """Test whether statements about an object contradict each other in a way that only its mask shows."""
        bad = self.bad_areas.any() or (self.masks == MaskKind.BAD).any()
        return bool(bad or self.contradictory.any())

    @property
    def contradictory(self) -> NDArray[np.bool_]:
        """(N,) bool: the annotations that are left out since their box and mask contradict each other."""
        return np.isin(self.statuses, list(CONTRADICTIONS.values())) if not self.usable.all() else ~self.usable


@np.errstate(all="ignore")  # numbers of files may be anything: what is not finite fails every comparison
def validate_annotations(
    annotations: list[RawAnnotation],
    *,
    image_index: IdIndex,
    image_sizes: NDArray[np.float64],
    class_index: Mapping[ImageId | None, int],
    crowds: Crowds = Crowds.IGNORE,
    read_masks: NDArray[np.bool_] | None = None,
) -> ValidatedAnnotations:
    """Validate a block of annotations.

    Args:
        annotations: As read.
        image_index: From image id to index; -2 for an image that is left out.
        image_sizes: (images, 2) width and height in pixels, 0 if the file does not give them.
        class_index: From category id to class index.
        crowds: Whether crowds are ignore regions or objects.
        read_masks: (N,) the objects whose masks are compared with their boxes; None for all.
    """
    count = len(annotations)
    images = image_index.match([a.image_id for a in annotations])
    classes = _look_up([a.category_id for a in annotations], class_index)
    marked = np.fromiter(map(bool, [a.iscrowd for a in annotations]), np.bool_, count) & (crowds is Crowds.IGNORE)
    boxes, missing = _boxes_xywh([a.bbox for a in annotations])
    given_areas = np.array([a.area for a in annotations], np.float64)  # NaN for None
    sizes = np.zeros((count, 2), order="F")  # unknown for annotations without an image
    sizes[images >= 0] = image_sizes[images[images >= 0]]
    segmentations = [a.segmentation for a in annotations]
    masks = classify(segmentations, sizes)
    given = boxes.copy(order="F")
    rotated, unclear = _rotate(annotations, boxes, masks)

    numbers: NDArray[np.bool_] = np.asarray((np.abs(boxes) < HUGE).all(axis=1))  # NaN is not
    positive = numbers & (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
    outlined = (masks != MaskKind.NONE) & (masks != MaskKind.BAD)
    derived = np.zeros(count, np.bool_)
    for i in np.flatnonzero((~positive | rotated) & outlined):
        box = box_around(annotations[i].segmentation, int(masks[i]), sizes[i])
        if box is not None:
            boxes[i], derived[i], positive[i], numbers[i], unclear[i] = box, not rotated[i], True, True, False

    doubtful = ~(given_areas > 1)  # missing, zero, a placeholder, or a fraction of the image
    chosen = outlined & positive & (doubtful | (np.ones(count, np.bool_) if read_masks is None else read_masks))
    shapes = mask_shapes(segmentations, masks, sizes, chosen=chosen, drawn=doubtful)
    masks[chosen & np.isnan(shapes.areas)] = MaskKind.BAD  # brackets and commas of polygons, around other things
    readings = compare(
        boxes, shapes.bounds_xyxy, shapes.areas, sizes, segmentations=segmentations, kinds=masks, compared=~derived
    )

    inside, clipped, outside = _clip(boxes, sizes)
    areas, bad_areas = _areas(given_areas, shapes.areas, boxes, inside)
    statuses = np.select(
        [images == -1, images == -2, classes < 0, missing & ~derived & ~rotated, ~numbers, ~positive],
        [
            AnnotationStatus.NO_IMAGE,
            AnnotationStatus.IMAGE_LEFT_OUT,
            AnnotationStatus.NO_CLASS,
            AnnotationStatus.NO_BOX,
            AnnotationStatus.BAD_NUMBERS,
            AnnotationStatus.EMPTY_BOX,
        ],
        AnnotationStatus.USABLE,
    ).astype(np.int8)
    for where, status in (
        (unclear, AnnotationStatus.UNCLEAR_ROTATION),
        (_are_shares(given) & ~derived & ~rotated, AnnotationStatus.SCALED_BOX),
        *((readings == reading, CONTRADICTIONS[Reading(reading)]) for reading in np.unique(readings[readings > 0])),
        (_are_corners(boxes, inside, sizes) & ~derived, AnnotationStatus.CORNER_BOX),
        (outside, AnnotationStatus.OUTSIDE),
    ):
        if where.any():
            statuses[where & (statuses == AnnotationStatus.USABLE)] = status
    return ValidatedAnnotations(
        statuses=statuses,
        images=images,
        classes=classes,
        boxes_xyxy=inside,
        areas=areas,
        crowds=marked,
        masks=masks,
        derived=derived,
        clipped=clipped & ~rotated,
        bad_boxes=~missing & (derived | ~positive),
        rotated=rotated,
        bad_areas=bad_areas,
        image_sizes=sizes,
        given_xywh=given,
        given_areas=given_areas,
    )


def _rotate(
    annotations: list[RawAnnotation], boxes: NDArray[np.float64], masks: NDArray[np.int8]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Replace boxes by the upright boxes around their rotated rectangles, in place.

    Returns:
        (N,) bool, rotated boxes; (N,) bool, boxes whose meaning is unclear. A mask that only repeats the box does not
        count as a mask.
    """
    degrees, unclear = angles(annotations)
    rotated = degrees != 0
    if rotated.any():
        boxes[rotated & ~unclear] = upright(boxes[rotated & ~unclear], degrees[rotated & ~unclear])
        masks[rotated & (masks == MaskKind.RECTANGLE)] = MaskKind.NONE
    return rotated, unclear


def _clip(
    boxes: NDArray[np.float64], sizes: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return (N, 4) corners clipped to the image; (N,) True if a box exceeds it by over a pixel or lies outside."""
    known = (sizes[:, 0] > 0) & (sizes[:, 1] > 0)
    limits = np.where(known, sizes.T, np.inf)
    low, high = boxes.T[:2], boxes.T[:2] + boxes.T[2:]
    inside = np.concatenate([np.clip(low, 0, limits), np.clip(high, 0, limits)])
    clipped = (np.abs(inside[:2] - low) > 1).any(axis=0) | (np.abs(inside[2:] - high) > 1).any(axis=0)
    outside = ~((inside[2] > inside[0]) & (inside[3] > inside[1]))
    return inside.T, np.asarray(clipped), np.asarray(outside)


def _areas(
    given: NDArray[np.float64], drawn: NDArray[np.float64], boxes: NDArray[np.float64], inside: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the areas of N objects, and which areas in the file are wrong.

    Tools write the area of the mask or of the box, and either may be clipped to the image. An area far from both is
    wrong.

    Args:
        given: (N,) as in the file.
        drawn: (N,) areas of the masks, NaN if unknown.
        boxes: (N, 4) x, y, width, height.
        inside: (N, 4) corners, clipped to the image.
    """
    of_box, seen = boxes[:, 2] * boxes[:, 3], (inside[:, 2] - inside[:, 0]) * (inside[:, 3] - inside[:, 1])
    largest = np.fmax(of_box, drawn)
    least = np.where(np.isnan(drawn), 0, np.fmin(drawn, seen))
    wrong = (given > 2 * largest + PIXELS) | (given < 0.5 * least - PIXELS)
    wrong |= (given <= 1) & ((np.isnan(drawn) & (seen > PIXELS)) | (least > PIXELS))
    missing = ~(np.isfinite(given) & (given > 0))
    own = np.where(drawn > 0, drawn, seen)
    return np.where(missing | wrong, own, given), wrong & np.isfinite(given)


def _are_shares(boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return (N,) True if all four numbers lie in 0..1: a real box is larger than the first pixel of its image."""
    x, y, w, h = boxes.T
    return np.asarray((x >= 0) & (x <= 1) & (y >= 0) & (y <= 1) & (w > 0) & (w <= 1) & (h > 0) & (h <= 1))


def _are_corners(
    boxes: NDArray[np.float64], inside: NDArray[np.float64], sizes: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return (N,) True if most of a box lies outside its image, but all of it inside when read as two corners."""
    (x, y, w, h), (left, top, right, bottom), (width, height) = boxes.T, inside.T, sizes.T
    fits = (x >= 0) & (y >= 0) & (w > x) & (h > y) & (w <= width + 1) & (h <= height + 1)
    return np.asarray(fits & ((right - left) * (bottom - top) < 0.5 * w * h))


def _look_up(ids: list[ImageId | None], index: Mapping[ImageId | None, int]) -> NDArray[np.int64]:
    """Return (N,) the index of each of N ids, -1 if unknown."""
    known = {one: index.get(one, -1) for one in dict.fromkeys(ids)}
    return np.fromiter(map(known.__getitem__, ids), np.int64, len(ids))


def _boxes_xywh(boxes: Sequence[Sequence[float] | None]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return (N, 4) float64, NaN without a box of four numbers; (N,) bool, True if the annotation has no box at all.

    The boxes are stored column by column: reductions over the four numbers are several times as fast.
    """
    given = [box or () for box in boxes]
    lengths = np.fromiter(map(len, given), np.int64, len(given))
    if (lengths != 4).any():
        given = [box if len(box) == 4 else [np.nan] * 4 for box in given]
    numbers = np.fromiter(chain.from_iterable(given), np.float64, 4 * len(given)).reshape(-1, 4)
    return np.asfortranarray(numbers), lengths == 0

"""Decide which annotations are usable objects: one set of rules for inspection, loading and splitting.

Blocks of a few thousand annotations are validated as arrays; only unusual ones are inspected one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.dataset.checks.box_mask_agreement import Reading, compare
from engine.dataset.checks.box_values import (
    BlockBoxes,
    are_corners,
    are_shares,
    clip_to_image,
    correct_areas,
    read_boxes,
)
from engine.dataset.checks.mask_geometry import mask_shapes
from engine.dataset.coco_records import RawAnnotation
from engine.dataset.id_index import IdIndex
from engine.dataset.segmentations import MaskKind, classify
from engine.dataset.types import ImageId
from engine.spec import Crowds


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
    given_areas = np.array([a.area for a in annotations], np.float64)  # NaN for None
    sizes = np.zeros((count, 2), order="F")  # unknown for annotations without an image
    sizes[images >= 0] = image_sizes[images[images >= 0]]
    segmentations = [a.segmentation for a in annotations]
    masks = classify(segmentations, sizes)
    boxes = read_boxes(annotations, masks, sizes)
    mask_areas, readings = _compare_masks(segmentations, masks, boxes, sizes, given_areas, read_masks)
    inside, clipped, outside = clip_to_image(boxes.xywh, sizes)
    areas, bad_areas = correct_areas(given_areas, mask_areas, boxes.xywh, inside)
    return ValidatedAnnotations(
        statuses=_statuses(images, classes, boxes, readings, inside, outside, sizes),
        images=images,
        classes=classes,
        boxes_xyxy=inside,
        areas=areas,
        crowds=marked,
        masks=masks,
        derived=boxes.derived,
        clipped=clipped & ~boxes.rotated,
        bad_boxes=~boxes.missing & (boxes.derived | ~boxes.positive),
        rotated=boxes.rotated,
        bad_areas=bad_areas,
        image_sizes=sizes,
        given_xywh=boxes.given_xywh,
        given_areas=given_areas,
    )


def _compare_masks(
    segmentations: list[msgspec.Raw],
    masks: NDArray[np.int8],
    boxes: BlockBoxes,
    sizes: NDArray[np.float64],
    given_areas: NDArray[np.float64],
    read_masks: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """Compare masks with boxes; masks that cannot be read become bad ones, in place.

    Returns:
        (N,) areas of the masks, NaN if unknown; (N,) readings, see :class:`Reading`.
    """
    doubtful = ~(given_areas > 1)  # missing, zero, a placeholder, or a fraction of the image
    chosen = boxes.outlined & boxes.positive
    if read_masks is not None:
        chosen &= doubtful | read_masks
    shapes = mask_shapes(segmentations, masks, sizes, chosen=chosen, drawn=doubtful)
    masks[chosen & np.isnan(shapes.areas)] = MaskKind.BAD  # brackets and commas of polygons, around other things
    readings = compare(
        boxes.xywh,
        shapes.bounds_xyxy,
        shapes.areas,
        sizes,
        segmentations=segmentations,
        kinds=masks,
        compared=~boxes.derived,
    )
    return shapes.areas, readings


def _statuses(
    images: NDArray[np.int64],
    classes: NDArray[np.int64],
    boxes: BlockBoxes,
    readings: NDArray[np.int8],
    inside: NDArray[np.float64],
    outside: NDArray[np.bool_],
    sizes: NDArray[np.float64],
) -> NDArray[np.int8]:
    """Return (N,) the status of each annotation: the first problem that applies, or usable."""
    problems = (
        (images == -1, AnnotationStatus.NO_IMAGE),
        (images == -2, AnnotationStatus.IMAGE_LEFT_OUT),
        (classes < 0, AnnotationStatus.NO_CLASS),
        (boxes.missing & ~boxes.derived & ~boxes.rotated, AnnotationStatus.NO_BOX),
        (~boxes.finite, AnnotationStatus.BAD_NUMBERS),
        (~boxes.positive, AnnotationStatus.EMPTY_BOX),
        (boxes.unclear, AnnotationStatus.UNCLEAR_ROTATION),
        (are_shares(boxes.given_xywh) & ~boxes.derived & ~boxes.rotated, AnnotationStatus.SCALED_BOX),
        *((readings == reading, CONTRADICTIONS[Reading(reading)]) for reading in np.unique(readings[readings > 0])),
        (are_corners(boxes.xywh, inside, sizes) & ~boxes.derived, AnnotationStatus.CORNER_BOX),
        (outside, AnnotationStatus.OUTSIDE),
    )
    statuses = np.full(len(images), AnnotationStatus.USABLE, np.int8)
    for where, status in problems:
        if where.any():
            statuses[where & (statuses == AnnotationStatus.USABLE)] = status
    return statuses


def _look_up(ids: list[ImageId | None], index: Mapping[ImageId | None, int]) -> NDArray[np.int64]:
    """Return (N,) the index of each of N ids, -1 if unknown."""
    known = {one: index.get(one, -1) for one in dict.fromkeys(ids)}
    return np.fromiter(map(known.__getitem__, ids), np.int64, len(ids))

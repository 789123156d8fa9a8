"""Count the objects of one split while its file is read.

Sizes are counted in histograms with bins 1 % apart, so that memory does not grow with the number of objects.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.dataset.checks.problem_catalogue import COPIES
from engine.dataset.checks.problems import ProblemLog
from engine.dataset.checks.usable_images import ImageMarks
from engine.dataset.checks.validate_annotations import AnnotationStatus, ValidatedAnnotations
from engine.dataset.coco_header import Header
from engine.dataset.coco_records import RawAnnotation
from engine.dataset.id_index import Repeats, Tally
from engine.dataset.segmentations import MaskKind
from engine.dataset.types import LeftOut

SMALL_AREA, LARGE_AREA = 32.0**2, 96.0**2  # COCO's
SIDES = np.geomspace(1e-4, 1.0, 921)
RATIOS = np.geomspace(1.0, 1e3, 692)

STATUS_CODES = {
    AnnotationStatus.NO_IMAGE: "dangling_image",
    AnnotationStatus.NO_CLASS: "dangling_category",
    AnnotationStatus.NO_BOX: "missing_box",
    AnnotationStatus.BAD_NUMBERS: "bad_numbers",
    AnnotationStatus.EMPTY_BOX: "empty_box",
    AnnotationStatus.OUTSIDE: "box_outside",
    AnnotationStatus.IMAGE_LEFT_OUT: "image_left_out",
    AnnotationStatus.SCALED_BOX: "scaled_box",
    AnnotationStatus.CORNER_BOX: "corner_box",
    AnnotationStatus.CENTER_BOX: "center_box",
    AnnotationStatus.SWAPPED: "swapped_axes",
    AnnotationStatus.SCALED_MASK: "scaled_mask",
    AnnotationStatus.ROW_MASK: "row_mask",
    AnnotationStatus.INVERTED_MASK: "inverted_mask",
    AnnotationStatus.NO_PIXEL: "mask_without_pixel",
    AnnotationStatus.CONTRADICTION: "box_and_mask_differ",
    AnnotationStatus.UNCLEAR_ROTATION: "unclear_rotation",
    AnnotationStatus.DUPLICATE: "duplicate_object",
}

Ints = NDArray[np.int64]


def zeros(count: int = 0) -> Ints:
    """Return ``count`` zeros."""
    return np.zeros(count, np.int64)


def plus(a: Ints, b: Ints) -> Ints:
    """Add two arrays of counts, the shorter one padded with zeros."""
    result = zeros(max(len(a), len(b)))
    result[: len(a)] += a
    result[: len(b)] += b
    return result


@dataclass
class SplitCounts:
    """Counts of one annotation file; arrays are indexed by the image and class indices of that file.

    Attributes:
        images: Usable images.
        images_read: Listed images, usable or not.
        read: All annotations.
        usable: Usable objects, crowds included.
        crowds: Usable crowds.
        derived: Usable objects whose box comes from their mask.
        targets: Usable objects except crowds.
        masks: (kinds,) number of targets by :class:`MaskKind`.
        objects_of_image: (images,) number of usable objects.
        marks: Which images have objects or masks.
        objects_of_class: (classes,) number of usable objects.
        image_class_pairs: Number of objects by image and class.
        areas: (3,) small, medium and large targets, with COCO's limits.
        sides: Histogram of the square root of box area over image area, with bins ``SIDES``.
        ratios: Histogram of the longer over the shorter side of boxes, with bins ``RATIOS``.
        ids: Repeated annotation ids.
        log: Problems of annotations.
    """

    images: int = 0
    images_read: int = 0
    read: int = 0
    usable: int = 0
    crowds: int = 0
    derived: int = 0
    targets: int = 0
    masks: Ints = field(default_factory=lambda: zeros(len(MaskKind)))
    objects_of_image: Ints = field(default_factory=zeros)
    marks: ImageMarks = field(default_factory=ImageMarks)
    objects_of_class: Ints = field(default_factory=zeros)
    image_class_pairs: Tally = field(default_factory=Tally)
    areas: Ints = field(default_factory=lambda: zeros(3))
    sides: Ints = field(default_factory=lambda: zeros(len(SIDES) + 1))
    ratios: Ints = field(default_factory=lambda: zeros(len(RATIOS) + 1))
    ids: Repeats = field(default_factory=Repeats)
    log: ProblemLog = field(default_factory=ProblemLog)

    def add(self, block: list[RawAnnotation], validated: ValidatedAnnotations, header: Header) -> None:
        """Count the annotations of a block."""
        usable, crowds = validated.usable, validated.crowds
        targets = usable & ~crowds
        self.read += len(block)
        self.usable += int(usable.sum())
        self.crowds += int((usable & crowds).sum())
        self.derived += int((usable & validated.derived).sum())
        self.targets += int(targets.sum())
        self.masks = plus(self.masks, np.bincount(validated.masks[targets], minlength=len(MaskKind)))
        self.ids.add(_id_numbers(block))
        self.marks.add(validated, targets, len(header.images))
        images, classes = validated.images[usable], validated.classes[usable]
        self._of_images(images, len(header.images))
        self.objects_of_class = plus(self.objects_of_class, np.bincount(classes))
        self.image_class_pairs.add(images << 24 | classes, targets[usable])
        self._sizes(validated, targets)
        self._problems(block, validated)

    def left_out(self) -> LeftOut:
        """Return the counts of unusable images and annotations."""
        copies = self.log.count(COPIES)
        return LeftOut(
            images=self.images_read - self.images,
            images_read=self.images_read,
            annotations=self.read - self.usable - copies,
            annotations_read=self.read - copies,
        )

    def _of_images(self, images: Ints, count: int) -> None:
        """Count the objects of each image. Only the range of images of the block is touched, which is usually short."""
        if count > len(self.objects_of_image):
            self.objects_of_image = plus(self.objects_of_image, zeros(count))
        if len(images):
            first, after = int(images.min()), int(images.max()) + 1
            self.objects_of_image[first:after] += np.bincount(images - first)

    def _sizes(self, validated: ValidatedAnnotations, targets: NDArray[np.bool_]) -> None:
        x1, y1, x2, y2 = validated.boxes_xyxy.T
        width, height, areas = (x2 - x1)[targets], (y2 - y1)[targets], validated.areas[targets]
        self.areas = self.areas + np.bincount(np.digitize(areas, (SMALL_AREA, LARGE_AREA)), minlength=3)
        ratios = np.maximum(width, height) / np.minimum(width, height)
        self.ratios = self.ratios + np.bincount(_bins(ratios, RATIOS), minlength=len(RATIOS) + 1)
        image_areas = (validated.image_sizes[:, 0] * validated.image_sizes[:, 1])[targets]
        known = image_areas > 0
        sides = np.sqrt(width[known] * height[known] / image_areas[known])
        self.sides = self.sides + np.bincount(_bins(sides, SIDES), minlength=len(SIDES) + 1)

    def _problems(self, block: list[RawAnnotation], validated: ValidatedAnnotations) -> None:
        for status in np.unique(validated.statuses[~validated.usable]):
            self._note(STATUS_CODES[AnnotationStatus(status)], validated.statuses == status, block)
        self._note("box_clipped", validated.usable & validated.clipped & ~validated.derived, block)
        self._note("box_repaired", validated.usable & validated.bad_boxes, block)
        self._note("rotated_box", validated.usable & validated.rotated, block)
        self._note("wrong_area", validated.usable & validated.bad_areas, block)
        self._note("bad_mask", validated.usable & (validated.masks == MaskKind.BAD), block)
        if any(isinstance(a.id, str) for a in block[:1]):
            self.log.add("text_ids", [block[0].id])

    def _note(self, code: str, where: NDArray[np.bool_], block: list[RawAnnotation]) -> None:
        count = int(np.count_nonzero(where))
        if count:
            self.log.add(code, (_place(block[i]) for i in np.flatnonzero(where)), count=count)


def _bins(values: NDArray[np.float64], borders: NDArray[np.float64]) -> Ints:
    """Return (N,) bins as :func:`numpy.digitize`, faster: for positive values and borders with a constant ratio."""
    steps = np.log(values / borders[0]) / np.log(borders[-1] / borders[0]) * (len(borders) - 1)
    return np.asarray((np.floor(steps + 1e-9) + 1).clip(0, len(borders)), np.int64)


def _place(annotation: RawAnnotation) -> str:
    """Return the location of an annotation, for messages."""
    return annotation.converted_from or f"annotation {annotation.id}"


def _id_numbers(block: list[RawAnnotation]) -> NDArray[np.int64]:
    """Return annotation ids as numbers, without missing ones; equal ids have equal numbers."""
    try:
        return np.array([a.id for a in block], np.int64)
    except (TypeError, ValueError, OverflowError):
        return np.array([hash(a.id) for a in block if a.id is not None], np.int64)

"""Checks over a whole file while its annotations are read, shared by all readers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.dataset.checks.box_format_errors import AreaReadings, BoxStatistics, read_by_area
from engine.dataset.checks.box_mask_agreement import Reading
from engine.dataset.checks.duplicate_objects import Duplicates, Repeated
from engine.dataset.checks.mislabelled_crowds import CrowdStatistics
from engine.dataset.checks.problems import EXAMPLES, ProblemLog
from engine.dataset.checks.shifted_image_ids import ShiftedImages
from engine.dataset.checks.validate_annotations import AnnotationStatus, ValidatedAnnotations
from engine.dataset.coco_records import RawAnnotation
from engine.dataset.id_index import IdIndex
from engine.dataset.segmentations import MaskKind

READ_WHOLE = 1 << 20
"""Bytes of masks per file that are all compared with their boxes; later masks are sampled unless ``thorough``."""

EVERY = 127
"""Sampling interval for later masks; all are compared if one disagrees with its box. It is a prime: an error in every
second or eighth object is as frequent in the sample as in the file."""

PLENTY, SOME = 20_000, 16
"""Number of boxes that all enter the statistics, and the sampling interval after them."""

NEAR_SHARE = 0.005
"""Fraction of near-identical boxes above which they are not a coincidence."""


class FileChecks:
    """Checks of one file, over one pass or two.

    Args:
        thorough: Compare every mask with its box. Otherwise masks after the first megabyte are sampled; if one of
            the sample contradicts its box, :meth:`finish` requests a second, thorough pass.
        copies: Keep duplicate objects.
    """

    def __init__(self, *, thorough: bool, copies: bool = False) -> None:
        self.thorough, self.copies = thorough, copies
        self._repeated: Repeated | None = None
        self._areas_prove = False
        self.begin()

    def begin(self) -> None:
        """Start a pass."""
        self.boxes, self.crowds, self._duplicates = BoxStatistics(), CrowdStatistics(), Duplicates()
        self._areas = AreaReadings()
        self._images = ShiftedImages()
        self._seen = self._bytes = 0
        self._sampled = self._contradicts = False

    def masks_to_read(self, block: list[RawAnnotation]) -> NDArray[np.bool_] | None:
        """Return (N,) the masks of a block to compare with their boxes; None for all."""
        if self.thorough:
            return None
        chosen = np.zeros(len(block), np.bool_)
        chosen[(-self._seen) % EVERY :: EVERY] = True
        if self._bytes <= READ_WHOLE:
            ends = self._bytes + np.cumsum([len(a.segmentation) for a in block])
            chosen |= ends <= READ_WHOLE
            self._bytes = int(ends[-1])
        self._sampled = self._sampled or not chosen.all()
        return chosen

    @np.errstate(all="ignore")  # boxes of unusable annotations may have any values
    def add(self, block: list[RawAnnotation], validated: ValidatedAnnotations) -> None:
        """Count a block, and mark duplicates found by an earlier pass as unusable.

        Args:
            block: N annotations.
            validated: Their validation results; their status may be changed.
        """
        first, self._seen = self._seen, self._seen + len(block)
        self._contradicts = self._contradicts or validated.contradicts
        self._images.add(block, validated)
        usable, of_image = validated.usable, validated.image_sizes
        counted = usable & ~validated.crowds
        plain = counted & ~validated.derived & ~validated.rotated & (of_image[:, 0] > 0) & (of_image[:, 1] > 0)
        if self._read_by_area(validated, plain):
            usable = validated.usable
            counted, plain = counted & usable, plain & usable
        some = np.flatnonzero(plain)[:: 1 if self.boxes.count < PLENTY else SOME]
        self.boxes.add(validated.given_xywh[some], validated.given_areas[some], of_image[some])
        self._crowds(block, validated, usable)
        if self._repeated is None:
            self._duplicates.add(
                validated.boxes_xyxy, validated.images, validated.classes, sizes=of_image, counted=counted
            )
        elif not self.copies:
            again = self._repeated.same
            here = again[slice(*np.searchsorted(again, (first, self._seen)))] - first
            validated.statuses[here[usable[here]]] = AnnotationStatus.DUPLICATE

    def _read_by_area(self, validated: ValidatedAnnotations, plain: NDArray[np.bool_]) -> bool:
        """Compare boxes without masks with their areas; leave out those that disagree once this is reliable."""
        bare = np.flatnonzero(plain & ((validated.masks == MaskKind.NONE) | (validated.masks == MaskKind.BAD)))
        boxes = validated.given_xywh[bare], validated.given_areas[bare], validated.image_sizes[bare]
        if not self._areas_prove:
            self._areas.add(*boxes)
            return False
        readings = read_by_area(*boxes)
        for reading, status in (
            (Reading.CORNERS, AnnotationStatus.CORNER_BOX),
            (Reading.SHARES, AnnotationStatus.SCALED_BOX),
        ):
            validated.statuses[bare[readings == reading]] = status
        return True

    def _crowds(self, block: list[RawAnnotation], validated: ValidatedAnnotations, usable: NDArray[np.bool_]) -> None:
        runs = validated.masks == MaskKind.RUN_LENGTHS
        marked = np.flatnonzero(usable & validated.crowds)
        masks = [block[i].segmentation if runs[i] else None for i in marked]
        pairs = validated.images << 24 | validated.classes
        self.crowds.add(validated.crowds[usable], validated.areas[usable], pairs[usable], masks=masks)

    def finish(self) -> bool:
        """End a pass over the whole file, and return True if a second one is needed."""
        self._repeated = self._duplicates.find()
        again = self._sampled and self._contradicts
        self.thorough = self.thorough or again
        whole = bool(self.boxes.conclusions())  # all boxes are wrong, which is a different problem
        self._areas_prove = not whole and self._areas.prove
        return again or self._areas_prove or (len(self._repeated.same) > 0 and not self.copies)

    def note(self, log: ProblemLog, *, images: IdIndex) -> None:
        """Log problems that are visible only in the whole file; ``images``: index from image ids to positions."""
        if shifted := self._images.find(images):
            log.add("shifted_image_ids", shifted, count=len(shifted))
        for code, count in self.boxes.conclusions():
            log.add(code, count=count)
        if self.crowds.are_objects:
            log.add("objects_as_crowds", count=self.crowds.crowds)
        if self._repeated is not None:
            two = self._repeated.two_classes
            log.add("box_with_two_classes", _places(two), count=len(two))
            near = self._repeated.near
            if len(near) >= max(1, NEAR_SHARE * self.boxes.count):
                log.add("near_duplicate", _places(near), count=len(near))


def _places(numbers: NDArray[np.int64]) -> list[str]:
    """Return the locations of the first few annotations for messages, counted from 1 in file order."""
    return [f"annotation {number + 1} of the file" for number in numbers[:EXAMPLES].tolist()]

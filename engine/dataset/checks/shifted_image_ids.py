"""Detect image ids of annotations that are shifted by one from those of the images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.dataset.checks.validate_annotations import AnnotationStatus, ValidatedAnnotations
from engine.dataset.coco_records import RawAnnotation
from engine.dataset.id_index import UNKNOWN, IdIndex, other_spelling

MOST = 0.8
"""Fraction of the images that must have annotations, to exclude a coincidence."""

FEW, MANY = 6, 64
"""Minimum number of images for a conclusion, and maximum number of unlisted ids for a shift."""


class ShiftedImages:
    """Image ids of annotations, collected while they are read: one bit per image, and some unlisted ids."""

    def __init__(self) -> None:
        self._annotated = np.zeros(0, np.bool_)
        self._unlisted: set[int] = set()

    def add(self, block: list[RawAnnotation], validated: ValidatedAnnotations) -> None:
        """Count a block."""
        listed = validated.images[validated.images >= 0]
        if len(listed) and int(listed.max()) >= len(self._annotated):
            room = max(int(listed.max()) + 1, 2 * len(self._annotated)) - len(self._annotated)
            self._annotated = np.concatenate([self._annotated, np.zeros(room, np.bool_)])
        self._annotated[listed] = True
        if len(self._unlisted) <= MANY:
            lost = (block[i].image_id for i in np.flatnonzero(validated.statuses == AnnotationStatus.NO_IMAGE))
            ids = (one if isinstance(one, int) else other_spelling(one) for one in lost)
            self._unlisted |= {one for one in ids if isinstance(one, int)}

    def find(self, index: IdIndex) -> list[int]:
        """Return the unlisted ids, if all ids of annotations would be listed after a shift by one.

        Args:
            index: Positions of images by id.

        Returns:
            An empty list if all ids are listed, a shift does not help, or it may be a coincidence.
        """
        ids, positions = index.sorted_numbers()
        if len(ids) < FEW or not 0 < len(self._unlisted) <= MANY:
            return []
        annotated = self._of_images(positions)
        if np.count_nonzero(annotated) < MOST * len(ids) - 1:
            return []
        wrong = np.array(sorted(self._unlisted), np.int64)
        for step in (1, -1):
            ends = index.find((ids + step).tolist()) == UNKNOWN
            if not (annotated & ends).any() and np.isin(wrong + step, ids).all():
                return [int(one) for one in wrong]
        return []

    def _of_images(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return (N,) True if an image has annotations; assumed for images that are left out."""
        known = (positions >= 0) & (positions < len(self._annotated))
        annotated = positions < 0
        annotated[known] = self._annotated[positions[known]]
        return annotated

"""Count the images of a split that have something to learn from, while objects are read: three bytes per image."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.dataset.checks.validate_annotations import ValidatedAnnotations
from engine.dataset.segmentations import MaskKind

Marks = NDArray[np.bool_]


@dataclass
class ImageMarks:
    """Contents of images, each (images,) bool; crowds do not count.

    Attributes:
        objects: Any object.
        outlines: An object with a mask.
        rectangles: An object whose polygon only repeats its box.
    """

    objects: Marks = field(default_factory=lambda: np.zeros(0, np.bool_))
    outlines: Marks = field(default_factory=lambda: np.zeros(0, np.bool_))
    rectangles: Marks = field(default_factory=lambda: np.zeros(0, np.bool_))

    def add(self, validated: ValidatedAnnotations, targets: Marks, images: int) -> None:
        """Record the objects of a block.

        Args:
            validated: The block.
            targets: (N,) bool, the objects that count.
            images: Number of images read so far.
        """
        masks = validated.masks
        outlines = (masks == MaskKind.POLYGONS) | (masks == MaskKind.RUN_LENGTHS)
        self.objects = _marked(self.objects, validated.images[targets], images)
        self.outlines = _marked(self.outlines, validated.images[targets & outlines], images)
        rectangles = targets & (masks == MaskKind.RECTANGLE)
        self.rectangles = _marked(self.rectangles, validated.images[rectangles], images)

    def with_objects(self) -> int:
        """Count the images with an object."""
        return int(self.objects.sum())

    def with_masks(self, *, rectangles_only: bool) -> int:
        """Count the images with a mask; ``rectangles_only``: masks that repeat boxes are an artefact of the export."""
        return int((self.outlines if rectangles_only else self.outlines | self.rectangles).sum())


def _marked(marks: Marks, images: NDArray[np.int64], count: int) -> Marks:
    if count > len(marks):
        marks = np.concatenate([marks, np.zeros(count - len(marks), np.bool_)])
    marks[images] = True
    return marks

"""Find objects of one image with the same box: annotated twice, or once in each of two classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNIT = 0.25
"""Pixels that boxes are rounded to, so that each takes eight bytes; coarser in images over 16,384 pixels."""

NEIGHBORS = 4
"""Number of neighbouring boxes, in order of their left edge, that each box is compared with."""

FARTHEST = 96
"""Maximum distance of two equal boxes, in units, for boxes of any size."""

SAME, SAME_SHARE = 0.5, 0.01
"""Tolerance for boxes of the same object after rounding or resizing: pixels, and fraction of a side."""

NEAR, NEAR_SHARE = 1.0, 0.05
"""Tolerance for similar boxes: reported but used, since small neighbours in a crowd may be one pixel apart."""

SMALL = 10.0
"""Side in pixels below which the tolerance in pixels is reduced."""

Ints = NDArray[np.int64]
Units = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Repeated:
    """Result, as numbers of annotations in the order in which they were added.

    Attributes:
        same: Annotations with the class and box of an earlier one.
        near: Annotations with the class and almost the box of another one.
        two_classes: Annotations with the box of another one that has a different class.
    """

    same: Ints
    near: Ints
    two_classes: Ints


class Duplicates:
    """The boxes of a file in sixteen bytes each."""

    def __init__(self) -> None:
        self._places: list[Ints] = []
        self._sides: list[NDArray[np.uint16]] = []
        self._classes: list[NDArray[np.int32]] = []

    def add(
        self,
        boxes_xyxy: NDArray[np.float64],
        images: Ints,
        classes: Ints,
        *,
        sizes: NDArray[np.float64],
        counted: NDArray[np.bool_],
    ) -> None:
        """Add N boxes.

        Args:
            boxes_xyxy: (N, 4) corners in pixels, clipped to the image.
            images: (N,) index of each box's image.
            classes: (N,) index of each box's class.
            sizes: (N, 2) width and height of each box's image in pixels, 0 if unknown.
            counted: (N,) the objects to compare.
        """
        unit = np.maximum(UNIT, np.maximum(sizes[:, 0], sizes[:, 1]) / 65535)[:, None]
        rounded = np.where(counted[:, None], boxes_xyxy / unit + 0.5, 0).clip(0, 65535).astype(np.int64)
        self._places.append(np.where(counted, images << 32 | rounded[:, 0] << 16 | rounded[:, 1], -1))
        self._sides.append((rounded[:, 2:] - rounded[:, :2]).astype(np.uint16))
        self._classes.append(classes.astype(np.int32))

    def find(self) -> Repeated:
        """Compare all boxes with their neighbours."""
        empty = np.zeros(0, np.int64)
        if not self._places:
            return Repeated(empty, empty, empty)
        places = np.concatenate(self._places)
        sides, classes = np.concatenate(self._sides), np.concatenate(self._classes)
        self._places, self._sides, self._classes = [], [], []
        order = np.argsort(places, kind="stable")
        order = order[np.searchsorted(places, 0, sorter=order) :]
        places, classes = places[order], classes[order]
        sides = sides[order].T.astype(np.int32, order="C")
        corners = np.stack([places >> 16, places]).astype(np.int32) & 0xFFFF
        same, near, two = [empty], [empty], [empty]
        for step in range(1, NEIGHBORS + 1):
            close = places[step:] - places[:-step] < FARTHEST << 16  # in the same image, and close along x
            close &= np.abs(corners[1, step:] - corners[1, :-step]) < FARTHEST
            a = np.flatnonzero(close)
            side = np.maximum(sides[:, a], sides[:, a + step])
            apart = np.abs(corners[:, a] - corners[:, a + step])
            apart = np.maximum(apart, np.abs(sides[:, a] - sides[:, a + step]))
            alike = _within(apart, side, NEAR, NEAR_SHARE)
            a, b = a[alike], a[alike] + step
            tight = _within(apart[:, alike], side[:, alike], SAME, SAME_SHARE)
            one, later = classes[a] == classes[b], np.maximum(order[a], order[b])
            same.append(later[tight & one])
            near.append(later[~tight & one])
            two.append(later[tight & ~one])
        return Repeated(*(np.unique(np.concatenate(found)) for found in (same, near, two)))


def _within(apart: Units, side: Units, pixels: float, share: float) -> NDArray[np.bool_]:
    """Return (N,) True if boxes that differ by ``apart`` (2, N) units are within a tolerance in pixels or of their
    sides.
    """
    by_pixels = np.where(side.min(axis=0, initial=1 << 16) >= SMALL / UNIT, pixels / UNIT, 1)
    return np.asarray((apart <= np.maximum(by_pixels, share * side)).all(axis=0))

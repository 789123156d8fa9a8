"""Objects of one image with the same box: annotated twice, or once in each of two classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNIT = 0.25
"""Pixels that boxes are rounded to, so that each takes eight bytes; in images of over 16,384 pixels more."""

NEIGHBORS = 4
"""Boxes are compared with so many that begin next to them."""

FARTHEST = 96
"""Units beyond which two boxes are not the same, however large they are."""

SAME, SAME_SHARE = 0.5, 0.01
"""Pixels, or share of a side, by which boxes of one object differ that was rounded or resized in between."""

NEAR, NEAR_SHARE = 1.0, 0.05
"""The same of boxes that look alike: reported, and used, since small neighbours in a crowd may be a pixel apart."""

SMALL = 10.0
"""Pixels of a side below which pixels make a difference."""

Ints = NDArray[np.int64]
Units = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Repeated:
    """What was found, as numbers of annotations in the order in which they were added.

    Attributes:
        same: Those whose class and box another one before them has.
        near: Those whose class, and nearly the box, another one has.
        two_classes: Those whose box one of another class has.
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
        """Note N boxes.

        Args:
            boxes_xyxy: (N, 4) corners in pixels, clipped to the image.
            images: (N,) index of the image of each.
            classes: (N,) index of the class of each.
            sizes: (N, 2) width and height of the image of each in pixels, 0 where unknown.
            counted: (N,) the objects to compare.
        """
        unit = np.maximum(UNIT, np.maximum(sizes[:, 0], sizes[:, 1]) / 65535)[:, None]
        rounded = np.where(counted[:, None], boxes_xyxy / unit + 0.5, 0).clip(0, 65535).astype(np.int64)
        self._places.append(np.where(counted, images << 32 | rounded[:, 0] << 16 | rounded[:, 1], -1))
        self._sides.append((rounded[:, 2:] - rounded[:, :2]).astype(np.uint16))
        self._classes.append(classes.astype(np.int32))

    def find(self) -> Repeated:
        """Compare all boxes with those next to them."""
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
            close = places[step:] - places[:-step] < FARTHEST << 16  # of one image, and near along x
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
    """(N,) whether boxes that lie ``apart`` (2, N) units differ by no more than pixels, or a share of their sides."""
    by_pixels = np.where(side.min(axis=0, initial=1 << 16) >= SMALL / UNIT, pixels / UNIT, 1)
    return np.asarray((apart <= np.maximum(by_pixels, share * side)).all(axis=0))

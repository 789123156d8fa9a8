"""Find errors that only all boxes of a file together show: corners, centers, swapped axes, or fractions of the image.

Without masks, a single box rarely proves anything. What is reported here cannot occur by chance or in a correct file.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.dataset.checks.box_mask_agreement import UNITS, Reading

FEW = 3
"""Minimum number of objects for a conclusion."""

ENOUGH = 20
"""Number of objects from which a limit that none of them exceeds is not a coincidence."""

ELONGATED = 1.2
"""Minimum ratio of the image's sides for evidence from a box that fits only with width and height swapped."""

MOST, SOME, RARELY = 0.995, 0.05, 0.1

MOSTLY, LEAST_AREA = 0.9, 100.0
"""Minimum fraction of boxes with an explained area, and the minimum area (square pixels) that counts as evidence."""

Array = NDArray[np.float64]


@dataclass
class BoxStatistics:
    """Statistics over the boxes of a file."""

    count: int = 0
    reaching_out: int = 0
    corners: int = 0
    centers: int = 0
    swapped: int = 0
    elongated: int = 0
    tiny: int = 0
    at_origin: int = 0
    with_area: int = 0
    area_of_sides: int = 0
    area_of_corners: int = 0
    area_of_units: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(UNITS), np.int64))
    farthest: Array = field(default_factory=lambda: np.zeros(2))
    smallest_image: Array = field(default_factory=lambda: np.full(2, np.inf))

    def add(self, boxes: Array, areas: Array, sizes: Array) -> None:
        """Count a block.

        Args:
            boxes: (N, 4) as in the file, all finite, with positive sides in either reading.
            areas: (N,) as in the file, NaN if missing.
            sizes: (N, 2) width and height of each box's image in pixels.
        """
        if not len(boxes):
            return
        x, y, w, h, width, height = np.ascontiguousarray(np.concatenate([boxes, sizes], axis=1).T)
        more_x, more_y = 1 + 0.002 * width, 1 + 0.002 * height
        within = (w <= width + more_x) & (h <= height + more_y)
        self.count += len(boxes)
        self.reaching_out += _count((x + w > width + 2 * more_x) | (y + h > height + 2 * more_y))
        self.corners += _count(within & (w > x) & (h > y))
        in_x, in_y = (x >= w / 2 - more_x) & (x + w / 2 <= width + more_x), (y >= h / 2 - more_y)
        self.centers += _count(in_x & in_y & (y + h / 2 <= height + more_y))
        self.swapped += _count((x + w <= height + more_y) & (y + h <= width + more_x))
        self.elongated += _count(np.maximum(width, height) >= ELONGATED * np.minimum(width, height))
        self.tiny += _count((w < 1) & (h < 1))
        self.at_origin += _count((x <= 1) & (y <= 1) & ((x % 1 > 0) | (y % 1 > 0)))
        self.farthest = np.maximum(self.farthest, [(x + w).max(), (y + h).max()])
        self.smallest_image = np.minimum(self.smallest_image, [width.min(), height.min()])
        self._areas(w * h, np.where((w > x) & (h > y), (w - x) * (h - y), np.nan), areas, width * height)

    def _areas(self, of_sides: Array, of_corners: Array, given: Array, images: Array) -> None:
        """Compare areas (N,) with those of each reading of a box; ``images``: areas of the images."""
        self.with_area += _count(given > 0)
        self.area_of_sides += _count(_same(of_sides, given))
        self.area_of_corners += _count(_same(of_corners, given))
        for k, unit in enumerate(UNITS):
            self.area_of_units[k] += _count(_same(of_sides * (images / unit**2), given))

    def conclusions(self) -> list[tuple[str, int]]:
        """Return codes of problems and the number of objects that show each."""
        if self.count < FEW:
            return []
        if self.tiny >= 0.2 * self.count or self.at_origin >= MOST * self.count or self._in_units():
            return [("scaled_boxes", self.count)]
        reaching = self.reaching_out >= SOME * self.count
        if (reaching and self._all(self.corners)) or self._proved_by_area(self.area_of_corners):
            return [("corner_boxes", self.count)]
        if reaching and self._all(self.centers):
            return [("center_boxes", self.count)]
        elongated = self.count >= ENOUGH and self.elongated >= 0.5 * self.count
        if reaching and elongated and self._all(self.swapped):
            return [("swapped_boxes", self.count)]
        return []

    def _all(self, fitting: int) -> bool:
        return self.count >= 2 * FEW and fitting >= MOST * self.count

    def _proved_by_area(self, fitting: int) -> bool:
        """Test whether the file's areas match another reading, and almost never the boxes as written."""
        few = self.area_of_sides <= RARELY * self.with_area
        return self.with_area >= FEW and few and fitting >= 0.5 * self.with_area

    def _in_units(self) -> bool:
        """Test whether boxes are fractions, percents or thousandths: by their areas, or because none exceeds that
        limit.
        """
        if any(self._proved_by_area(int(fitting)) for fitting in self.area_of_units):
            return True
        full = [(0.9 * unit <= self.farthest).all() and (self.farthest <= 1.005 * unit).all() for unit in UNITS[1:]]
        small = [(self.smallest_image >= 2 * unit).all() for unit in UNITS[1:]]
        return self.count >= ENOUGH and any(a and b for a, b in zip(full, small, strict=True))


EXACT_SHARE, EXACT_PIXELS = 0.001, 0.51
"""Tolerance between a box and an area that was computed from it and rounded: relative, and in pixels."""


@dataclass
class AreaReadings:
    """Find boxes without masks whose ``area`` in the file only fits another reading of the box.

    One such box proves nothing. It does if all other boxes of the file match their area.
    """

    count: int = 0
    of_sides: int = 0
    misread: int = 0

    def add(self, boxes: Array, areas: Array, sizes: Array) -> None:
        """Count a block of boxes without masks; arguments as in :func:`read_by_area`."""
        readings = read_by_area(boxes, areas, sizes)
        self.count += _count(areas > 0)
        self.of_sides += _count((readings == Reading.AGREES) & (areas > 0))
        self.misread += _count(np.isin(readings, (Reading.CORNERS, Reading.SHARES)))

    @property
    def prove(self) -> bool:
        """Test whether the readings of single boxes are reliable."""
        return self.misread > 0 and self.of_sides + self.misread >= MOSTLY * self.count


def read_by_area(boxes: Array, areas: Array, sizes: Array) -> NDArray[np.int8]:
    """Return the reading of each box that gives the area written in the file.

    Args:
        boxes: (N, 4) as in the file.
        areas: (N,) as in the file, NaN where there is none.
        sizes: (N, 2) width and height of the image of each in pixels.

    Returns:
        (N,) int8: AGREES, CORNERS or SHARES of :class:`Reading`; UNEXPLAINED if no reading has the area.
    """
    agree = _same(boxes[:, 2] * boxes[:, 3], areas)
    found = np.where(agree, Reading.AGREES, Reading.UNEXPLAINED).astype(np.int8)
    others = np.flatnonzero(~agree & (areas > LEAST_AREA))  # few, in most files
    (x, y, w, h), areas, images = boxes[others].T, areas[others], sizes[others].prod(axis=1)
    readings = [(Reading.SHARES, w * h * images / unit**2) for unit in UNITS]
    readings.append((Reading.CORNERS, np.where((w > x) & (h > y), (w - x) * (h - y), np.nan)))
    for reading, own in readings:
        found[others[np.abs(own - areas) <= np.maximum(EXACT_PIXELS, EXACT_SHARE * areas)]] = reading
    return found


def _count(condition: NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(condition))


def _same(a: Array, b: Array) -> NDArray[np.bool_]:
    """Return (N,) True if areas differ only by rounding; a missing area equals none."""
    return np.asarray((np.abs(a - b) <= 0.01 * b) & (b > 0))

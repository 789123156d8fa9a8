"""Detect labels that look like YOLO but are not, from all lines of a dataset.

A single line is ambiguous: nine numbers are a polygon of four points or a rotated box, 13 a polygon or a box with key
points.
"""

from __future__ import annotations

import math
from collections import Counter

from engine.dataset.formats.unsupported import unread_format
from engine.errors import DataError

ENOUGH = 8
"""Minimum number of lines for a conclusion."""

TOO_LARGE = 2.0
"""Fractions of width or height are below this value; pixel coordinates are above it."""

OUTSIDE = 0.02
"""Fraction of the image that a box may exceed its border by, because of rounding."""


class Shapes:
    """Count the kinds of label lines.

    Args:
        source: Name of the dataset in messages.

    Attributes:
        unread: A line with something other than numbers.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.columns: Counter[int] = Counter()
        self.large = self.turned = self.upright = self.outside = self.not_corners = 0
        self.unread = ""
        self.pairs_inside = self.triples_inside = 0

    def add(self, numbers: list[float], size: tuple[int, int]) -> None:
        """Count a line: the numbers after its class, and the size of its image in pixels."""
        count = len(numbers)
        self.columns[count] += 1
        self.large += any(abs(number) > TOO_LARGE for number in numbers[:4])
        if count == 4:
            x, y, width, height = numbers
            reach = (x - width / 2, y - height / 2, 1 - x - width / 2, 1 - y - height / 2)
            self.outside += min(reach) < -OUTSIDE
            self.not_corners += not (width > x and height > y)
        elif count == 8:
            kind = _rectangle(numbers, size)
            self.turned += kind == "turned"
            self.upright += kind == "upright"
        if count > 4:
            self.pairs_inside += (count - 4) % 2 == 0 and _inside(numbers, 2)
            self.triples_inside += (count - 4) % 3 == 0 and _inside(numbers, 3)

    def check(self) -> None:
        """Check for labels of another task.

        Raises:
            DataError: Almost all lines look like another task.
        """
        lines = self.columns.total()
        if not lines and (found := unread_format("labels.txt", self.unread.encode())) is not None:
            raise DataError(f"{self.source} has labels of {found[0]}, which is not read: {found[1]}")
        if not lines:
            return
        if self.large > lines / 2:
            raise self._refused(
                "most numbers are above 1, so they are pixels",
                "divide x and width by the width of the image, y and height by its height",
            )
        if self.columns[5] > lines / 2:
            raise self._refused(
                "most lines have six numbers, a box and its score, as predictions have",
                "take the sixth number away if these are your labels",
            )
        if len(self.columns) == 1 and (self.pairs_inside == lines or self.triples_inside == lines):
            raise self._refused("each line is a box and key points in it (YOLO pose)", "export boxes or polygons")
        if self.columns[8] == lines and self.turned > lines / 2:
            raise self._refused("each line is a turned box of four corners (YOLO OBB)", "export boxes or polygons")
        boxes = self.columns[4]
        if boxes >= ENOUGH and not self.not_corners and self.outside > boxes / 5:
            raise self._refused(
                "each box is x1 y1 x2 y2, two corners",
                "write cx cy width height: the center, then the size, as shares of the image's",
            )

    def _refused(self, found: str, advice: str) -> DataError:
        return DataError(f"{self.source} holds text files like YOLO labels, but {found}: {advice}")


def _inside(numbers: list[float], step: int) -> bool:
    """Test whether the first four numbers are a box and the rest are points in it; (0, 0) is an invisible point."""
    cx, cy, width, height = numbers[:4]
    if width <= 0 or height <= 0:
        return False
    points = [(numbers[k], numbers[k + 1]) for k in range(4, len(numbers) - 1, step)]
    seen = [point for point in points if point != (0, 0)]
    if step == 3 and any(number not in (0, 1, 2) for number in numbers[6::3]):
        return False
    return all(abs(x - cx) <= 0.55 * width and abs(y - cy) <= 0.55 * height for x, y in seen)


def _rectangle(numbers: list[float], size: tuple[int, int]) -> str:
    """Return ``upright`` or ``turned`` for four points that are a rectangle in pixels; empty for others."""
    points = [(numbers[k] * size[0], numbers[k + 1] * size[1]) for k in range(0, 8, 2)]
    sides = [(points[k][0] - points[k - 1][0], points[k][1] - points[k - 1][1]) for k in range(4)]
    lengths = [math.hypot(*side) for side in sides]
    if min(lengths) < 0.05:
        return ""
    for (a, b), (c, d), one, other in zip(sides, sides[1:], lengths, lengths[1:], strict=False):
        if abs(a * c + b * d) > 0.05 * one * other:  # 3 degrees off a right angle
            return ""
    off_axis = min(abs(sides[0][0]), abs(sides[0][1])) / lengths[0]
    return "upright" if off_axis < 0.02 else "turned"

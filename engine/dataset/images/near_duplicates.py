"""Find near-duplicate images: equal except for encoding, size, brightness, a flip or a rotation by 90 degrees.

Images are compared by their grey thumbnails. Two images count as the same picture if their thumbnails, in one of eight
orientations and with equal mean and contrast, differ in no cell by more than encoding and scaling explain. One moved
object, as in two frames of a fixed camera, makes a different picture. Not detected: blank pictures, crops, rotations by
other angles, and changes of colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 32
"""Side of a thumbnail in cells; a thumbnail takes 1 KiB."""

BLANK = 3.0
"""Minimum standard deviation of a thumbnail in grey levels: below it, similarity is a matter of noise."""

LEAST_CORRELATION = 0.985
LARGEST_DIFFERENCE = 8.0
"""Maximum difference of one cell in grey levels, after mean and contrast are made equal."""

MEAN_DIFFERENCE = 1.6
"""Maximum root mean square difference over all cells, in grey levels."""

GAIN = (0.7, 1.4)
"""Minimum and maximum ratio of the contrasts of two thumbnails."""

FULL_CONTRAST = 30.0
"""Standard deviation in grey levels above which proportionally larger differences are allowed, up to twice."""

NEIGHBOURS = 4
"""Maximum number of similar pictures that each picture is compared with in detail."""

PIXELS = 16
"""Minimum number of image pixels per cell: with fewer, encoding noise would exceed the differences of pictures. Smaller
images are compared with half as many cells per side."""

BRIGHT, DAZZLING = 180, 240
"""Grey levels: cells that are BRIGHT in both pictures and DAZZLING in one may be overexposed and do not count."""

BLOCK = 2048

Thumbnails = NDArray[np.uint8]
"""(N, SIDE, SIDE) uint8 grey levels."""


def thumbnail(pixels: NDArray[np.uint8]) -> Thumbnails:
    """Return the (SIDE, SIDE) grey thumbnail of an image (H, W, 3); each cell is the mean of the pixels it covers."""
    grey = Image.fromarray(pixels).convert("L")
    # No reducing_gap: it would shift cells by fractions of a pixel, depending on the image size.
    if grey.width * grey.height >= PIXELS * SIDE * SIDE:
        return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX))
    return np.asarray(grey.resize((SIDE // 2, SIDE // 2), Image.Resampling.BOX)).repeat(2, axis=0).repeat(2, axis=1)


def same_pictures(thumbnails: Thumbnails, sides: NDArray[np.int64] | None = None) -> Iterator[tuple[int, int]]:
    """Yield pairs of positions, the smaller first, of thumbnails that show the same picture.

    Of a group of more than two, enough pairs are returned to connect it, but not all.

    Args:
        thumbnails: (N, SIDE, SIDE).
        sides: (N,) group numbers: only pairs from different groups are returned; None: all pairs.
    """
    values = thumbnails.reshape(len(thumbnails), SIDE * SIDE).astype(np.float32)
    shown = np.flatnonzero(values.std(axis=1) >= BLANK)
    for i, j in _likely(thumbnails[shown], None if sides is None else sides[shown]):
        one, other = int(shown[i]), int(shown[j])
        if is_same(thumbnails[one], thumbnails[other]):
            yield min(one, other), max(one, other)


def is_same(one: Thumbnails, other: Thumbnails) -> bool:
    """Test if two thumbnails (SIDE, SIDE) show the same picture, in any of eight orientations."""
    first, second = one.astype(np.float32), other.astype(np.float32)
    if _coarse(one) or _coarse(other):
        first, second = (cells.reshape(SIDE // 2, 2, SIDE // 2, 2).mean(axis=(1, 3)) for cells in (first, second))
    return any(_alike(turned, second) for turned in _turns(first))


def _coarse(thumbnail: Thumbnails) -> bool:
    """Test if a thumbnail is of a small image: its cells are equal in blocks of 2 x 2."""
    return bool((thumbnail[::2] == thumbnail[1::2]).all() and (thumbnail[:, ::2] == thumbnail[:, 1::2]).all())


def _alike(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Test if two grids of cells differ in no cell by more than brightness, encoding and scaling explain."""
    a, b = one - one.mean(), other - other.mean()
    if min(a.std(), b.std()) < BLANK or float((a * b).mean()) < LEAST_CORRELATION * float(a.std() * b.std()):
        return False
    exposed = ~((np.minimum(one, other) >= BRIGHT) & (np.maximum(one, other) >= DAZZLING))
    if exposed.sum() < exposed.size // 2:
        exposed[:] = True
    a, b = one[exposed] - one[exposed].mean(), other[exposed] - other[exposed].mean()
    spread = float(b.std())
    gain = spread / max(float(a.std()), 1e-6)
    if not GAIN[0] <= gain <= GAIN[1]:
        return False
    difference = np.abs(a * math.sqrt(gain) - b / math.sqrt(gain))
    # Low contrast: smaller differences matter. High contrast: encoding and scaling cause larger ones.
    allowed = min(1.0, spread / 12.0) if spread < FULL_CONTRAST else min(2.0, spread / FULL_CONTRAST)
    largest, mean = float(difference.max()), math.sqrt(float((difference**2).mean()))
    return largest <= LARGEST_DIFFERENCE * allowed and mean <= MEAN_DIFFERENCE * allowed


def _turns(values: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Yield the eight orientations of a square."""
    for flipped in (values, values[:, ::-1]):
        for quarter in range(4):
            yield np.rot90(flipped, quarter)


def _likely(thumbnails: Thumbnails, sides: NDArray[np.int64] | None) -> Iterator[tuple[int, int]]:
    """Yield pairs with similar descriptors, for each picture the closest few."""
    described = _described(thumbnails)
    order = np.argsort(described[:, 0], kind="stable")
    ranked = described[order]
    radius = math.sqrt(2 * (1 - LEAST_CORRELATION))
    for start in range(0, len(ranked), BLOCK):
        rows = ranked[start : start + BLOCK]
        # Sorted by the first number: rows that differ by more than the radius in it alone need no comparison.
        end = int(np.searchsorted(ranked[:, 0], rows[-1, 0] + radius, side="right"))
        columns = ranked[start:end]
        squares = (rows**2).sum(1)[:, None] + (columns**2).sum(1)[None, :] - 2 * rows @ columns.T
        squares[np.tril_indices(len(rows), 0, len(columns))] = np.inf  # each pair once, none with itself
        if sides is not None:
            squares[sides[order[start : start + len(rows)]][:, None] == sides[order[start:end]][None, :]] = np.inf
        yield from _closest(squares, order, start, radius**2)


def _closest(
    squares: NDArray[np.float32], order: NDArray[np.int64], start: int, most: float
) -> Iterator[tuple[int, int]]:
    rows = np.flatnonzero((squares <= most).any(axis=1))
    for row in rows.tolist():
        near = np.flatnonzero(squares[row] <= most)
        nearest = near[np.argsort(squares[row, near], kind="stable")[:NEIGHBOURS]]
        for column in nearest.tolist():
            yield int(order[start + row]), int(order[start + column])


def _described(thumbnails: Thumbnails) -> NDArray[np.float32]:
    """Return (N, 36) descriptors that orientation and brightness do not change; similar pictures have similar ones.

    They are magnitudes of the low frequencies of a cosine transform: a flip changes signs, a rotation by 90 degrees
    exchanges rows and columns. The distance of two descriptors is at most that of the pictures.
    """
    basis = _cosines()
    values = thumbnails.astype(np.float32)
    values -= values.mean(axis=(1, 2), keepdims=True)
    values /= np.maximum(np.sqrt((values**2).sum(axis=(1, 2), keepdims=True)), 1e-6)
    sizes = np.abs(basis @ values @ basis.T)
    above, below = np.triu_indices(len(basis), 1)
    one, other = sizes[:, above, below], sizes[:, below, above]
    half = np.float32(math.sqrt(0.5))
    return np.concatenate(
        [(one + other) * half, np.abs(one - other) * half, np.diagonal(sizes, axis1=1, axis2=2)], axis=1
    ).astype(np.float32)


def _cosines() -> NDArray[np.float32]:
    """Return (8, SIDE) the lowest rows of an orthonormal cosine transform."""
    rows, columns = np.arange(8)[:, None], np.arange(SIDE)[None, :]
    basis = np.cos(math.pi * (2 * columns + 1) * rows / (2 * SIDE)) * math.sqrt(2 / SIDE)
    basis[0] /= math.sqrt(2)
    return basis.astype(np.float32)


def connected(count: int, pairs: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Return for each of ``count`` items the smallest position that ``pairs`` connect it with."""
    root = list(range(count))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for one, other in pairs:
        a, b = find(one), find(other)
        root[max(a, b)] = min(a, b)
    return np.array([find(i) for i in range(count)], np.int64)

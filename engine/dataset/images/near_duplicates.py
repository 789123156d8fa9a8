"""Pictures that are the same except for re-encoding, scaling, a little light, or a flip or quarter turn.

Of each picture a grey thumbnail is kept. Two are the same picture if, turned one way or another and their light made
equal, their thumbnails differ nowhere by more than encoding and scaling explain: a single object that has moved, as
between two frames of a fixed camera, is another picture. Nothing is said of blank pictures, nor of ones that are cut,
rotated by other angles, or changed in colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 32
"""Pixels of a thumbnail's side; it takes a kilobyte."""

BLANK = 3.0
"""Grey levels, the standard deviation of a thumbnail: below it noise decides what is alike."""

LEAST_CORRELATION = 0.985
LARGEST_DIFFERENCE = 8.0
"""Grey levels of the cell that differs most, light made equal."""

MEAN_DIFFERENCE = 1.6
"""Grey levels, root of the mean square over all cells."""

GAIN = (0.7, 1.4)
"""How many times the contrast of one that of the other may be."""

FULL_CONTRAST = 30.0
"""Grey levels, the standard deviation from which on larger differences are allowed, up to twice."""

NEIGHBOURS = 4
"""Likely copies of a picture that are compared in detail: of a hundred frames that look alike a few are enough."""

PIXELS = 16
"""Pixels of the image that a cell covers, at least: noise of the encoding is larger than a picture's own differences in
fewer. Smaller images are compared by cells of twice the side."""

BRIGHT, DAZZLING = 180, 240
"""Grey levels: of cells that are bright in both pictures and dazzling in one, light may have cut off the difference."""

BLOCK = 2048

Thumbnails = NDArray[np.uint8]
"""(N, SIDE, SIDE) grey levels."""


def thumbnail(pixels: NDArray[np.uint8]) -> Thumbnails:
    """The (SIDE, SIDE) grey thumbnail of an image (H, W, 3); each cell is the mean of what it covers."""
    grey = Image.fromarray(pixels).convert("L")
    # No reducing_gap: it would shift cells by parts of a pixel, by the size of the image.
    if grey.width * grey.height >= PIXELS * SIDE * SIDE:
        return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX))
    return np.asarray(grey.resize((SIDE // 2, SIDE // 2), Image.Resampling.BOX)).repeat(2, axis=0).repeat(2, axis=1)


def same_pictures(thumbnails: Thumbnails, sides: NDArray[np.int64] | None = None) -> Iterator[tuple[int, int]]:
    """Pairs of positions, the smaller first, of thumbnails that show the same picture.

    Not all pairs of a group are given, but enough to connect it.

    Args:
        thumbnails: (N, SIDE, SIDE).
        sides: (N,) only pairs of different sides are wanted; None: all.
    """
    values = thumbnails.reshape(len(thumbnails), SIDE * SIDE).astype(np.float32)
    shown = np.flatnonzero(values.std(axis=1) >= BLANK)
    for i, j in _likely(thumbnails[shown], None if sides is None else sides[shown]):
        one, other = int(shown[i]), int(shown[j])
        if is_same(thumbnails[one], thumbnails[other]):
            yield min(one, other), max(one, other)


def is_same(one: Thumbnails, other: Thumbnails) -> bool:
    """Test if two thumbnails (SIDE, SIDE) show the same picture, turned or not."""
    first, second = one.astype(np.float32), other.astype(np.float32)
    if _coarse(one) or _coarse(other):
        first, second = (cells.reshape(SIDE // 2, 2, SIDE // 2, 2).mean(axis=(1, 3)) for cells in (first, second))
    return any(_alike(turned, second) for turned in _turns(first))


def _coarse(thumbnail: Thumbnails) -> bool:
    """Test if a thumbnail is of a small image: its cells stand in fours."""
    return bool((thumbnail[::2] == thumbnail[1::2]).all() and (thumbnail[:, ::2] == thumbnail[:, 1::2]).all())


def _alike(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Test if two grids of cells differ nowhere by more than light, encoding and scaling explain."""
    a, b = one - one.mean(), other - other.mean()
    if min(a.std(), b.std()) < BLANK or float((a * b).mean()) < LEAST_CORRELATION * float(a.std() * b.std()):
        return False
    told = ~((np.minimum(one, other) >= BRIGHT) & (np.maximum(one, other) >= DAZZLING))
    if told.sum() < told.size // 2:
        told[:] = True
    a, b = one[told] - one[told].mean(), other[told] - other[told].mean()
    spread = float(b.std())
    gain = spread / max(float(a.std()), 1e-6)
    if not GAIN[0] <= gain <= GAIN[1]:
        return False
    difference = np.abs(a * math.sqrt(gain) - b / math.sqrt(gain))
    # Of pictures of little contrast, less is a difference; of very much, encoding and scaling make a larger one.
    allowed = min(1.0, spread / 12.0) if spread < FULL_CONTRAST else min(2.0, spread / FULL_CONTRAST)
    largest, mean = float(difference.max()), math.sqrt(float((difference**2).mean()))
    return largest <= LARGEST_DIFFERENCE * allowed and mean <= MEAN_DIFFERENCE * allowed


def _turns(values: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """The eight ways to lay a square."""
    for flipped in (values, values[:, ::-1]):
        for quarter in range(4):
            yield np.rot90(flipped, quarter)


def _likely(thumbnails: Thumbnails, sides: NDArray[np.int64] | None) -> Iterator[tuple[int, int]]:
    """Pairs whose descriptors are close, of each picture the closest few."""
    described = _described(thumbnails)
    order = np.argsort(described[:, 0], kind="stable")
    ranked = described[order]
    radius = math.sqrt(2 * (1 - LEAST_CORRELATION))
    for start in range(0, len(ranked), BLOCK):
        rows = ranked[start : start + BLOCK]
        # Descriptors that differ by more in their first number alone are too far: of those in order few are left.
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
    """(N, 36) numbers that turning a picture, or its light, does not change; close for pictures that are close.

    Sizes of the low frequencies of a cosine transform: a flip changes their signs, a quarter turn exchanges rows and
    columns. Distances are at most those of the pictures themselves.
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
    """(8, SIDE) the lowest rows of an orthonormal cosine transform."""
    rows, columns = np.arange(8)[:, None], np.arange(SIDE)[None, :]
    basis = np.cos(math.pi * (2 * columns + 1) * rows / (2 * SIDE)) * math.sqrt(2 / SIDE)
    basis[0] /= math.sqrt(2)
    return basis.astype(np.float32)


def connected(count: int, pairs: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Return for each of ``count`` things the smallest position that ``pairs`` connect it with."""
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

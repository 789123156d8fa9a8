"""Validate COCO run lengths before pycocotools decodes them: it does not check them, and would write out of bounds.

The text is that of pycocotools' ``rleToString``: numbers in base 32, low digits first, each digit a character starting
at ``0`` (48), plus 32 if more digits follow, the sign in bit 4 of the last digit. From the fourth number on, each is
the difference to the number two positions before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_MOST_DIGITS = 12
"""60 bits: more than any image has pixels."""

AT_ONCE = 2000
"""Texts decoded at a time: few enough that their numbers stay in the processor's cache."""


def area_of_counts(counts: Sequence[int], pixels: int) -> int:
    """Return the number of pixels set in a mask of ``size`` pixels, -1 if the counts do not add up to it."""
    return sum(counts[1::2]) if min(counts, default=-1) >= 0 and sum(counts) == pixels else -1


def areas_of_texts(texts: Sequence[str], pixels: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (N,) the pixels set in N masks, -1 if a text is not that of a mask of its size."""
    areas = np.full(len(texts), -1, np.int64)
    for first in range(0, len(texts), AT_ONCE):
        some = slice(first, first + AT_ONCE)
        areas[some] = _areas(texts[some], np.asarray(pixels[some], np.int64))
    return areas


def _areas(texts: Sequence[str], pixels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the pixels of a block of texts as arrays: first their characters, then their numbers."""
    joined, lengths = "".join(texts), np.fromiter(map(len, texts), np.int64, len(texts))
    if not joined.isascii() or not lengths.all():
        return _areas_of_some(texts, pixels, [text.isascii() and text != "" for text in texts])
    digits = np.frombuffer(joined.encode("ascii"), np.uint8) - np.uint8(48)  # characters before "0" become large
    text_ends = np.cumsum(lengths)
    whole = (digits[text_ends - 1] & 32) == 0
    if not whole.all():  # a text whose last number is incomplete would continue into the next text
        return _areas_of_some(texts, pixels, whole.tolist())
    ends = np.flatnonzero((digits & 32) == 0)
    values, places = _numbers(digits, ends)

    first = np.concatenate([[0], np.searchsorted(ends, text_ends[:-1])])  # number of each text
    after = np.append(first[1:], len(ends))
    alone = values[first]
    values[first] = 0  # the first number is not a difference
    wrong = alone < 0
    totals, areas = alone.copy(), np.zeros(len(texts), np.int64)
    for parity in (0, 1):  # every other number is a sum of differences
        begin, end = (first - parity + 1) // 2, (after - parity + 1) // 2
        sums = np.cumsum(values[parity::2])
        before = np.concatenate([[0], sums])[np.where(first % 2 == parity, begin + 1, begin)]
        counts = sums - np.repeat(before, end - begin)
        negative = np.flatnonzero(counts < 0)
        wrong[np.searchsorted(end, negative, side="right")] = True
        added = np.concatenate([[0], np.cumsum(counts)])
        of_text = added[end] - added[begin]
        totals += of_text
        areas += np.where(first % 2 == parity, 0, of_text)
    wrong[np.searchsorted(after, np.flatnonzero(places > _MOST_DIGITS), side="right")] = True
    wrong[np.searchsorted(text_ends, np.flatnonzero(digits > 63), side="right")] = True
    return np.where(wrong | (totals != pixels), -1, areas)


def _areas_of_some(texts: Sequence[str], pixels: NDArray[np.int64], which: Sequence[bool]) -> NDArray[np.int64]:
    areas = np.full(len(texts), -1, np.int64)
    if any(which):
        areas[np.array(which)] = _areas(
            [text for text, one in zip(texts, which, strict=True) if one], pixels[np.array(which)]
        )
    return areas


def _numbers(digits: NDArray[np.uint8], ends: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers and the number of digits of each, given the positions of their last digits."""
    starts = np.concatenate([[0], ends[:-1] + 1])
    places = ends - starts + 1
    values = (digits[starts] & 31).astype(np.int64)
    longer = np.arange(0)
    for place in range(1, min(int(places.max()), _MOST_DIGITS)):
        longer = np.flatnonzero(places > place) if place == 1 else longer[places[longer] > place]
        values[longer] |= (digits[starts[longer] + place] & 31).astype(np.int64) << (5 * place)
    negative = np.flatnonzero(digits[ends] & 16)
    values[negative] -= np.left_shift(1, 5 * np.minimum(places[negative], _MOST_DIGITS))
    return values, places

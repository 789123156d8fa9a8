"""Checks COCO's run lengths before pycocotools gets them: it trusts them, and writes out of bounds where they lie.

The text is that of pycocotools' ``rleToString``: numbers in base 32, low digits first, each digit a character from
``0`` (48) on, 32 added where more digits follow, the sign in bit 4 of the last. From the fourth number on, each is the
difference to the one before the last.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_MOST_DIGITS = 12
"""60 bits: more than any image has pixels."""


def area_of_counts(counts: Sequence[int], pixels: int) -> int:
    """Pixels set in a mask of so many pixels, -1 if the counts are not of one."""
    return sum(counts[1::2]) if min(counts, default=-1) >= 0 and sum(counts) == pixels else -1


def areas_of_texts(texts: Sequence[str], pixels: Sequence[int]) -> NDArray[np.int64]:
    """(N,) pixels set in N masks of so many pixels, -1 where a text is not of one.

    All texts are read at once, in arrays: first their characters, then their numbers.
    """
    areas = np.full(len(texts), -1, np.int64)
    encoded = [text.encode("ascii", errors="replace") for text in texts]
    # Within a text whose last number goes on, the next text would be read.
    whole = [i for i, text in enumerate(encoded) if text and not (text[-1] - 48) & 32]
    if not whole:
        return areas
    characters = np.frombuffer(b"".join(encoded[i] for i in whole), np.uint8)
    digits = characters - np.uint8(48)  # what is before "0" becomes large
    ends = np.flatnonzero((digits & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    places = ends - starts + 1
    values = (digits[starts] & 31).astype(np.int64)
    for place in range(1, min(int(places.max()), _MOST_DIGITS)):
        longer = np.flatnonzero(places > place)
        values[longer] |= (digits[starts[longer] + place] & 31).astype(np.int64) << (5 * place)
    values -= np.where(digits[ends] & 16, 1 << (5 * np.minimum(places, _MOST_DIGITS)), 0)

    text_ends = np.cumsum([len(encoded[i]) for i in whole])
    last_number = np.searchsorted(ends, text_ends - 1)
    first_number = np.concatenate([[0], last_number[:-1] + 1])
    numbers = last_number - first_number + 1
    of_text = np.repeat(np.arange(len(whole)), numbers)
    order = np.arange(len(values)) - first_number[of_text]
    counts = values.copy()
    for parity in (1, 2):  # numbers 1, 3, 5 … and 2, 4, 6 … are sums of differences
        chain = np.flatnonzero((order >= parity) & (order % 2 == parity % 2))
        sums = np.cumsum(values[chain])
        begins = order[chain] == parity
        before = (sums - values[chain])[begins]
        counts[chain] = sums - before[np.cumsum(begins) - 1]

    def per_text(of_number: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.add.reduceat(of_number, first_number)

    wrong = per_text(((counts < 0) | (places > _MOST_DIGITS)).astype(np.int64))
    np.add.at(wrong, np.searchsorted(text_ends, np.flatnonzero(digits > 63), side="right"), 1)
    right = (wrong == 0) & (per_text(counts) == np.array(pixels)[whole])
    areas[whole] = np.where(right, per_text(np.where(order % 2 == 1, counts, 0)), -1)
    return areas

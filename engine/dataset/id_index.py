"""Compact index of the ids of a file, and compact sets that find repeated numbers."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from itertools import count

import numpy as np
from numpy.typing import NDArray

from engine.dataset.types import ImageId

UNKNOWN = -1
"""Number of an id that was not added."""

SMALL = 1 << 28
"""Smaller numbers take one bit each, at most 32 MB. Annotation ids are usually counted from 1."""

Ints = NDArray[np.int64]


class IdIndex:
    """Map from ids to numbers other than -1. Integer ids are in sorted arrays, 16 bytes each; others in a dict."""

    def __init__(self) -> None:
        self._ids, self._numbers = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._others: dict[ImageId | None, int] = {}

    def add(self, ids: Sequence[ImageId | None], numbers: Sequence[int]) -> None:
        """Add the ids that are not in the index yet."""
        plain = np.array([_is_plain(one) for one in ids], np.bool_)
        for i in np.flatnonzero(~plain):
            self._others[ids[int(i)]] = numbers[int(i)]
        joined = np.concatenate([self._ids, np.array([ids[int(i)] for i in np.flatnonzero(plain)], np.int64)])
        order = np.argsort(joined, kind="stable")
        self._ids = joined[order]
        self._numbers = np.concatenate([self._numbers, np.array(numbers, np.int64)[plain]])[order]

    def renumber(self, new: Callable[[Ints], Ints]) -> None:
        """Replace all numbers by the result of ``new``."""
        self._numbers = new(self._numbers)
        others = new(np.array(list(self._others.values()), np.int64))
        self._others = dict(zip(self._others, others.tolist(), strict=True))

    def match(self, ids: Sequence[ImageId | None]) -> Ints:
        """Return (N,) the number of each of N references to added ids, UNKNOWN without a match.

        If the id itself was not added, a number also matches the text of its digits and vice versa: some exporters
        write image ids as numbers, and references to them as text.
        """
        found = self.find(ids)
        lost = np.flatnonzero(found == UNKNOWN).tolist()
        if lost:
            found[lost] = self.find([other_spelling(ids[i]) for i in lost])
        return found

    def find(self, ids: Sequence[ImageId | None]) -> Ints:
        """Return (N,) the number of each of N ids, UNKNOWN for ids that were not added."""
        try:
            return self._find(np.array(array("q", ids), np.int64))  # type: ignore[type-var]
        except (TypeError, OverflowError):  # not all of them are 64-bit integers
            pass
        found = np.array([self._others.get(one, UNKNOWN) for one in ids], np.int64)
        plain = [i for i, one in enumerate(ids) if _is_plain(one)]
        found[plain] = self._find(np.array([ids[i] for i in plain], np.int64))
        return found

    def sorted_numbers(self) -> tuple[Ints, Ints]:
        """Return (N,) the integer ids, sorted, and (N,) their numbers."""
        return self._ids, self._numbers

    def _find(self, ids: Ints) -> Ints:
        if not len(self._ids):
            return np.full(len(ids), UNKNOWN, np.int64)
        at = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        return np.asarray(np.where(self._ids[at] == ids, self._numbers[at], UNKNOWN), np.int64)


class Repeats:
    """Count repeated numbers.

    Attributes:
        count: Number of repetitions.
        examples: The smallest repeated numbers.
    """

    def __init__(self, *, examples: int = 5) -> None:
        self.count, self.examples = 0, np.zeros(0, np.int64)
        self._examples = examples
        self._seen = np.zeros(0, np.uint8)
        self._large: list[Ints] = []

    def add(self, numbers: Ints) -> None:
        """Add some numbers."""
        numbers = np.sort(numbers, kind="stable")  # the fastest for sorted input
        small = numbers[slice(*np.searchsorted(numbers, (0, SMALL)))]
        if len(small) < len(numbers):
            self._large.append(numbers[(numbers < 0) | (numbers >= SMALL)])
        small = self._distinct(small)
        if not len(small):
            return
        size = (int(small[-1]) >> 3) + 1
        if size > len(self._seen):
            self._seen = np.concatenate(
                [self._seen, np.zeros(max(size, 2 * len(self._seen)) - len(self._seen), np.uint8)]
            )
        bytes_, bits = small >> 3, np.left_shift(1, small & 7).astype(np.uint8)
        self._note(small[(self._seen[bytes_] & bits) != 0])
        np.bitwise_or.at(self._seen, bytes_, bits)

    def finish(self) -> None:
        """Count repetitions among the numbers without a bit."""
        if self._large:
            self._distinct(np.sort(np.concatenate(self._large), kind="stable"))
        self._large = []

    def _distinct(self, ordered: Ints) -> Ints:
        again = ordered[1:] == ordered[:-1]
        if not again.any():
            return ordered
        self._note(ordered[1:][again])
        first: NDArray[np.bool_] = np.concatenate([[True], ~again])
        return ordered[first]

    def _note(self, repeated: Ints) -> None:
        if len(repeated):
            self.count += len(repeated)
            self.examples = np.sort(np.concatenate([self.examples, repeated]))[: self._examples]


class Distinct:
    """Set of numbers, eight bytes each, for adding many at a time."""

    def __init__(self) -> None:
        self._numbers = np.zeros(0, np.int64)
        self._new: list[Ints] = []
        self._waiting = 0

    def add(self, numbers: Ints) -> None:
        """Add numbers."""
        self._new.append(_distinct(numbers))
        self._waiting += len(self._new[-1])
        if self._waiting > len(self._numbers) + SMALL // 1024:
            self.numbers()

    def numbers(self) -> Ints:
        """Return the numbers, sorted."""
        self._numbers = _distinct(np.concatenate([self._numbers, *self._new]))
        self._new, self._waiting = [], 0
        return self._numbers


class Tally:
    """Count of each number, twelve bytes each, for adding many at a time."""

    def __init__(self) -> None:
        self._numbers, self._counts = np.zeros(0, np.int64), np.zeros(0, np.int32)
        self._new: list[tuple[Ints, NDArray[np.int32]]] = []
        self._waiting = 0

    def add(self, numbers: Ints, counted: NDArray[np.bool_]) -> None:
        """Add N numbers; only those ``counted`` (N,) increase their count."""
        self._new.append(_summed(numbers, counted.astype(np.int32)))
        self._waiting += len(self._new[-1][0])
        if self._waiting > len(self._numbers) + SMALL // 1024:
            self.counts()

    def counts(self) -> tuple[Ints, NDArray[np.int32]]:
        """Return the unique numbers, sorted, and the count of each."""
        numbers, counts = zip((self._numbers, self._counts), *self._new, strict=True)
        self._numbers, self._counts = _summed(np.concatenate(numbers), np.concatenate(counts))
        self._new, self._waiting = [], 0
        return self._numbers, self._counts


def as_numbers(ids: Sequence[ImageId]) -> list[int]:
    """Return a unique number per id: the first id with a number keeps it, all others get a free number.

    >>> as_numbers([1, "x", 1, "1"]), as_numbers(["a", "b"])
    ([1, 2, 3, 4], [0, 1])
    """
    taken = {one for one in ids if isinstance(one, int)}
    free = count(max(taken, default=-1) + 1)
    given: set[int] = set()
    numbers = []
    for one in ids:
        number = one if isinstance(one, int) and one not in given else next(free)
        given.add(number)
        numbers.append(number)
    return numbers


def _distinct(numbers: Ints) -> Ints:
    """Return the unique numbers, sorted; numpy.unique would hash them, but they are almost sorted already."""
    ordered = np.sort(numbers, kind="stable")
    first = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered[first]


def _summed(numbers: Ints, counts: NDArray[np.int32]) -> tuple[Ints, NDArray[np.int32]]:
    """Return the unique numbers, sorted, with the sum of the counts of each."""
    if not len(numbers):
        return numbers, counts
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return ordered[first], np.add.reduceat(counts[order], first)


def other_spelling(one: ImageId | None) -> ImageId | None:
    """Convert a number to text, or a text of digits to the number; None for an id with only one spelling.

    >>> other_spelling(12), other_spelling("12"), other_spelling("012"), other_spelling("x")
    ('12', 12, None, None)
    """
    if isinstance(one, str):
        digits = one.removeprefix("-")
        plain = digits.isascii() and digits.isdecimal() and len(digits) <= 18
        return int(one) if plain and str(int(one)) == one else None
    return None if one is None or abs(one) >= 10**18 else str(one)


def _is_plain(one: ImageId | None) -> bool:
    return isinstance(one, int) and -(2**63) <= one < 2**63

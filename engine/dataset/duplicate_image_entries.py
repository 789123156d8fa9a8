"""Which entries of a COCO file mean the same image file, and which of these are wrong about it.

A name that is a guess may be right or not; it certainly is not where another entry means the file, or where other
entries name the folder of the file. Of an entry 20 bytes are kept, and its name only if that is a guess.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from engine.dataset.file_names import EXACT, WHOLE, FileNames, Match, rejected, tidied
from engine.dataset.image_table import Texts

Ints = NDArray[np.int64]

SURE = -1
"""In place of the position of a name: it is the path of its file, or means none."""


class Claims:
    """What the entries of one COCO file mean, in its order.

    Args:
        names: The files.

    Attributes:
        folders: Of the files that are named with their folder.
    """

    def __init__(self, names: FileNames) -> None:
        self._files = names
        self._images: array[int] = array("q")
        self._keys: array[int] = array("q")
        self._guesses: array[int] = array("i")
        self._weak: list[int] = []
        self._names = Texts()
        self.folders: set[str] = set()

    def add(self, file_name: str, match: Match | None) -> None:
        """Note what an entry means that is left out, unless :meth:`take` follows: its file is no other entry's.

        Args:
            file_name: As it stands there.
            match: Its file; None if it means none.
        """
        self._images.append(-1)
        if match is None:
            self._keys.append(hash(tidied(file_name)))
            self._guesses.append(SURE)
            return
        key, strength = match
        self._keys.append(hash(key))
        if strength == EXACT:
            self._guesses.append(SURE)
        else:
            self._guesses.append(len(self._names))
            self._names.append(file_name)
        if strength >= WHOLE:
            self.folders.add(key[: key.rfind("/") + 1])
        else:
            self._weak.append(len(self._images) - 1)

    def take(self, image: int) -> None:
        """Say which image the entry that was added last became."""
        self._images[-1] = image

    def wrong(self) -> dict[int, str]:
        """By index, images whose file another entry means, with a sentence about it."""
        images, guesses = np.array(self._images, np.int64), np.array(self._guesses, np.int64)
        found: dict[int, str] = {}
        for rows in self._shared():
            guessed = rows[guesses[rows] != SURE]
            if len(guessed):
                found |= self._rejected(images, guesses, guessed, sure=len(guessed) < len(rows))
        for row in self._weak:
            name = self._names[int(guesses[row])]
            match = self._files.match(name)
            if match is not None and match.key[: match.key.rfind("/") + 1] in self.folders:
                found.setdefault(int(images[row]), f"{name} (other entries name the folder of {match.key})")
        return {image: found[image] for image in sorted(found) if image >= 0}

    def repeats(self) -> int:
        """Count how many images are of a file that an earlier image is of."""
        keys = np.sort(np.array(self._keys, np.int64)[np.array(self._images, np.int64) >= 0])
        return int(np.count_nonzero(keys[1:] == keys[:-1]))

    def renumber(self, new: Callable[[Ints], Ints]) -> None:
        """Replace the indices of images."""
        self._images = array("q", new(np.array(self._images, np.int64)).tolist())

    def _shared(self) -> Iterator[Ints]:
        """Rows of each file that several entries mean."""
        keys = np.array(self._keys, np.int64)
        _, group, counts = np.unique(keys, return_inverse=True, return_counts=True)
        rows = np.flatnonzero(counts[group] > 1)
        rows = rows[np.argsort(keys[rows], kind="stable")]
        if len(rows):
            yield from np.split(rows, np.flatnonzero(np.diff(keys[rows])) + 1)

    def _rejected(self, images: Ints, guesses: Ints, rows: Ints, *, sure: bool) -> dict[int, str]:
        """Of entries that guess the same file those that are wrong; ``sure``: another one has its path."""
        names = [self._names[position] for position in guesses[rows].tolist()]
        matches = {name: match for name in names if (match := self._files.match(name)) is not None}
        lost = {tidied(name) for name in names}
        if not sure:
            lost = set(rejected({tidied(name): match for name, match in matches.items()}))
        return {
            image: f"{name} (another entry means {matches[name].key})"
            for image, name in zip(images[rows].tolist(), names, strict=True)
            if tidied(name) in lost
        }

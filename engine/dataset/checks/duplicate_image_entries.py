"""Find entries of a COCO file that refer to the same image file, and those of them that are wrong.

A guessed match of a name may be right or wrong. It is certainly wrong if another entry has the path of the file, or if
other entries name the folder of the file. Each entry takes 20 bytes, and its name only if the match was guessed.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from engine.dataset.file_names import EXACT, WHOLE, FileNames, Match, rejected, tidied
from engine.dataset.images.table import Texts

Ints = NDArray[np.int64]

SURE = -1
"""Marker instead of the position of a name: the name is the path of its file, or has no file."""


class Claims:
    """Image files that the entries of one COCO file refer to, in file order.

    Args:
        names: The existing files.

    Attributes:
        folders: Folders of the files that are named with their folder.
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
        """Record the file of an entry. The entry counts as left out unless :meth:`take` follows.

        Args:
            file_name: Name as in the COCO file.
            match: Its file; None if there is none.
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
        """Set the image index of the entry that was added last."""
        self._images[-1] = image

    def wrong(self) -> dict[int, str]:
        """Return, by index, the images whose file belongs to another entry, with a sentence about it."""
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
        """Count the images whose file an earlier image has."""
        keys = np.sort(np.array(self._keys, np.int64)[np.array(self._images, np.int64) >= 0])
        return int(np.count_nonzero(keys[1:] == keys[:-1]))

    def renumber(self, new: Callable[[Ints], Ints]) -> None:
        """Replace the indices of images."""
        self._images = array("q", new(np.array(self._images, np.int64)).tolist())

    def _shared(self) -> Iterator[Ints]:
        """Yield the rows of each file that several entries refer to."""
        keys = np.array(self._keys, np.int64)
        _, group, counts = np.unique(keys, return_inverse=True, return_counts=True)
        rows = np.flatnonzero(counts[group] > 1)
        rows = rows[np.argsort(keys[rows], kind="stable")]
        if len(rows):
            yield from np.split(rows, np.flatnonzero(np.diff(keys[rows])) + 1)

    def _rejected(self, images: Ints, guesses: Ints, rows: Ints, *, sure: bool) -> dict[int, str]:
        """Return the wrong entries of those with the same guessed file; ``sure``: another entry has its path."""
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

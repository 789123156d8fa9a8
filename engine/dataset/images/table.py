"""Compact table of the images of a file, about fifty bytes each: objects would take ten times as much."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import overload

import numpy as np
from numpy.typing import NDArray

from engine.dataset.types import CocoImage, ImageId


class ImageTable(Sequence[CocoImage]):
    """Images in file order, stored as columns.

    Attributes:
        sizes: (images, 2) float64, width and height in pixels, 0 if the file does not give them.
        names: Their ``file_name``.
    """

    def __init__(self) -> None:
        self.sizes: NDArray[np.float64] = np.zeros((0, 2))
        self.names = Texts()
        self._ids: array[int] | list[ImageId] = array("q")

    def extend(self, images: Sequence[CocoImage]) -> None:
        """Append images."""
        for image in images:
            try:
                self._ids.append(image.id)  # type: ignore[arg-type]
            except (TypeError, OverflowError):
                self._ids = [*self._ids, image.id]
            self.names.append(image.file_name)
        rows = np.array([(image.width, image.height) for image in images], np.float64)
        self.sizes = np.concatenate([self.sizes, rows.reshape(-1, 2)])

    def keep(self, kept: NDArray[np.bool_]) -> None:
        """Drop the images where ``kept`` (images,) is False."""
        images = [self[i] for i in np.flatnonzero(kept).tolist()]
        self.sizes, self.names, self._ids = np.zeros((0, 2)), Texts(), array("q")
        self.extend(images)

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> CocoImage: ...
    @overload
    def __getitem__(self, index: slice) -> list[CocoImage]: ...
    def __getitem__(self, index: int | slice) -> CocoImage | list[CocoImage]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        width, height = self.sizes[index].tolist()
        return CocoImage(self._ids[index], self.names[index], int(width), int(height))


class Texts(Sequence[str]):
    """Texts in one block of memory, UTF-8 plus nine bytes each."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("q", [0])

    def append(self, text: str) -> None:
        """Append a text."""
        self._bytes += text.encode("utf-8", errors="surrogatepass")
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[str]:
        return (self._text(begin, end) for begin, end in pairwise(self._ends))

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return self._text(self._ends[index], self._ends[index + 1])

    def _text(self, begin: int, end: int) -> str:
        return self._bytes[begin:end].decode("utf-8", errors="surrogatepass")

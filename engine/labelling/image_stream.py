"""Read a folder of images as a stream: chunks of the listing, and their decoded images, prefetched by threads.

The listing and the images are never held in memory as a whole, and nothing is stored on disk: an image is in memory
from its download until its prediction.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.dataset.file_listing import list_files
from engine.dataset.images.decoding import decode_image, probe_image
from engine.dataset.splits.split_files import is_image
from engine.dataset.types import Frame
from engine.errors import DataError
from engine.storage import NotFoundError, ObjectInfo, Storage

READERS = 8
"""Threads that fetch and decode."""

T = TypeVar("T")


@dataclass(frozen=True)
class Chunk:
    """Consecutive images of the listing, whose labels are stored together.

    Attributes:
        index: Index of the chunk.
        items: The images.
        first: Index of the first image in the listing.
    """

    index: int
    items: tuple[ObjectInfo, ...]
    first: int

    @property
    def name(self) -> str:
        """File name that is unique to the content: index, and a digest of key, ETag and size of each image."""
        digest = hashlib.sha256()
        for item in self.items:
            digest.update(f"{item.key}\0{item.etag}\0{item.size}\n".encode(errors="surrogateescape"))
        return f"{self.index:08d}-{digest.hexdigest()[:16]}.jsonl"


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded image.

    Attributes:
        pixels: (H, W, 3) uint8, RGB.
        orientation: EXIF orientation, 1..8; 1 means no rotation.
    """

    pixels: NDArray[np.uint8]
    orientation: int = 1


class Listing:
    """Chunk names and sizes of a listing: equal for two listings of the same images.

    Attributes:
        names: Names of the chunks.
        sizes: Number of images in each chunk.
        images: Number of images in total.
    """

    def __init__(self, chunks: Iterable[Chunk] = ()) -> None:
        self.names: list[str] = []
        self.sizes: list[int] = []
        self.images = 0
        for chunk in chunks:
            self.add(chunk)

    def add(self, chunk: Chunk) -> None:
        """Append a chunk."""
        self.names.append(chunk.name)
        self.sizes.append(len(chunk.items))
        self.images += len(chunk.items)

    @property
    def digest(self) -> str:
        """Hash that changes when an image is added, deleted or rewritten."""
        return hashlib.sha256("\n".join(self.names).encode()).hexdigest()


def list_images(folder: str, storage: Storage) -> Iterator[ObjectInfo]:
    """List the image files of a folder, selected by file name, sorted by key, lazily."""
    return (item for item in list_files(folder, storage) if is_image(item.key))


def chunked(items: Iterable[ObjectInfo], size: int) -> Iterator[Chunk]:
    """Split a listing into chunks of ``size`` images."""
    for index, some in enumerate(in_groups(items, size)):
        yield Chunk(index, some, index * size)


def in_groups(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """Yield tuples of ``size`` items; the last one can be shorter.

    >>> list(in_groups("abc", 2))
    [('a', 'b'), ('c',)]
    """
    rest = iter(items)
    while some := tuple(islice(rest, size)):
        yield some


def read_ahead(
    chunks: Iterable[Chunk], storage: Storage, *, ahead: int, frame: Frame = Frame.UPRIGHT
) -> Iterator[tuple[Chunk, Iterator[Picture | DataError]]]:
    """Yield each chunk with its decoded images, in order; an unreadable image yields its error instead.

    Threads fetch and decode up to ``ahead`` images in advance, across chunk borders. The caller must consume all
    images of a chunk before it requests the next chunk.

    Raises:
        StorageError: Storage denied access, or was unavailable after all retries.
    """
    pool = ThreadPoolExecutor(READERS)
    waiting: deque[tuple[Chunk, deque[Future[Picture | DataError]]]] = deque()
    unread = ((chunk, item) for chunk in chunks for item in chunk.items)

    def fill(count: int) -> None:
        for chunk, item in islice(unread, count):
            if not waiting or waiting[-1][0] is not chunk:
                waiting.append((chunk, deque()))
            waiting[-1][1].append(pool.submit(_read, item, storage, frame))

    def pixels(count: int) -> Iterator[Picture | DataError]:
        for _ in range(count):
            future = waiting[0][1].popleft()
            fill(1)
            yield future.result()

    try:
        fill(ahead)
        while waiting:
            chunk = waiting[0][0]
            yield chunk, pixels(len(chunk.items))
            waiting.popleft()
    finally:
        pool.shutdown(cancel_futures=True)


def _read(item: ObjectInfo, storage: Storage, frame: Frame) -> Picture | DataError:
    """Return the decoded image, rotated by EXIF or as stored, or the error if it is unreadable."""
    try:
        data = storage.read_bytes(item.uri)
        pixels = decode_image(data, upright=frame is Frame.UPRIGHT, name=item.key)
        return Picture(pixels, probe_image(data, name=item.key).orientation)
    except DataError as error:
        return error
    except NotFoundError:
        return DataError(f"{item.key} does not exist any more: it was deleted while the folder was labelled")

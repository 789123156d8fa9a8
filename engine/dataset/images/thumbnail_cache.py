"""Cache thumbnails of training images between runs, see :mod:`engine.dataset.images.near_duplicates`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from engine.dataset.images.decoding import decode_image
from engine.dataset.images.folder import ImageFolder
from engine.dataset.images.near_duplicates import SIDE, Thumbnails, thumbnail
from engine.dataset.types import CocoImage
from engine.errors import DataError, StorageError
from engine.storage import Storage
from engine.storage.transfer import each_done

THREADS = 8
"""Images decoded at a time: bounds the memory."""


def thumbnails_of(
    images: Sequence[CocoImage], folder: ImageFolder, *, cache: Path, check: Callable[[], None] = lambda: None
) -> Thumbnails:
    """Download images, decode them and return their thumbnails, from the cache if the same files were decoded before.

    Args:
        images: N images of a dataset.
        folder: Image folder.
        cache: Cache folder; a damaged entry is ignored and written again.
        check: Called before each image is decoded, in several threads; an exception from it ends the work.

    Returns:
        (N, 32, 32) uint8, zeros for an unusable image.

    Raises:
        StorageError: Storage refuses, or is unavailable after all retries.
    """
    with closing(folder.bring(images)) as brought:
        here = list(brought)
    file = cache / "thumbnails" / f"{_key([folder.path(image) for image in images])}.bin"
    known = _load(file, len(images))
    if known is not None:
        return known
    found = np.zeros((len(images), SIDE, SIDE), np.uint8)

    def open_one(index: int) -> tuple[int, Thumbnails | None]:
        check()
        try:
            return index, thumbnail(decode_image(folder.path(images[index]), name=images[index].file_name))
        except DataError:  # reported when the image is left out
            return index, None

    with closing(each_done(open_one, here, threads=THREADS)) as done:
        for index, small in done:
            if small is not None:
                found[index] = small
    body = found.tobytes()
    try:
        Storage().write_bytes(str(file), hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    except StorageError:  # an unwritable cache only costs time
        return found
    return found


def _load(file: Path, count: int) -> Thumbnails | None:
    if not file.is_file():
        return None
    seal, _, body = file.read_bytes().partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != seal or len(body) != count * SIDE * SIDE:
        return None
    return np.frombuffer(body, np.uint8).reshape(count, SIDE, SIDE)


def _key(paths: Sequence[Path]) -> str:
    """Return a cache key that changes with the path, size or times of any file."""
    digest = hashlib.sha256()
    for path in paths:
        status = path.stat() if path.is_file() else None
        seen = (status.st_size, status.st_mtime_ns, status.st_ctime_ns) if status is not None else ()
        digest.update(f"{path}\0{seen}\n".encode(errors="replace"))
    return digest.hexdigest()[:32]

"""Group images that must stay in the same split: by their names, bytes, pictures and the user's rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from engine.dataset.images.decoding import decode_image
from engine.dataset.images.folder import ImageFolder
from engine.dataset.images.near_duplicates import SIDE, Thumbnails, thumbnail
from engine.dataset.splits.comparison import sure
from engine.dataset.splits.group_field import read_field
from engine.dataset.splits.leaks import Grouping, SplitImages, groups_of
from engine.errors import DataError
from engine.storage import Storage, join
from engine.storage.transfer import each_done

THREADS = 8
"""Images decoded at a time: bounds the memory."""

FEW = 8
"""Up to this many images of one picture are always kept together: a square has eight orientations."""

SHARE = 10
"""Groups of similar images larger than 1/SHARE of the dataset are not kept together: see :func:`.leaks.groups_of`."""


def split_images(
    names: Sequence[str],
    folder: ImageFolder,
    *,
    thumbnails: Thumbnails | None = None,
    grouping: Grouping | None = None,
    fields: Sequence[str] = (),
) -> SplitImages:
    """Return digests and names of images: files on disk are read once, those in S3 are known from the listing.

    Args:
        names: ``file_name`` of each image.
        folder: Folder of the images.
        thumbnails: (N, 32, 32), if the images were opened.
        grouping: Rule of the user for images that belong together.
        fields: Value of the field named by ``grouping`` for each image, if it names one.
    """
    keys = [folder.names.find(name) if name else None for name in names]
    values = fields or [""] * len(names)
    groups = [] if grouping is None else [grouping.group(*both) for both in zip(names, values, strict=True)]
    return SplitImages(
        names=names,
        files=[join(folder.uri, key or name) if key or name else "" for key, name in zip(keys, names, strict=True)],
        marks=[sure(mark) for mark in folder.marks(keys)],
        groups=groups,
        thumbnails=thumbnails,
    )


def keep_together(images: SplitImages) -> NDArray[np.int64]:
    """Return a number per image, the same for images that a split must keep together."""
    return groups_of(images, most=max(FEW, len(images.names) // SHARE))


def field_values(annotations: str, grouping: Grouping | None, *, storage: Storage) -> list[tuple[str, str]]:
    """Return file name and group field of each image, in file order; an empty list if images are not grouped by a
    field.

    Raises:
        DataError: No image has the field.
    """
    if grouping is None or grouping.kind != "Field":
        return []
    return read_field(annotations, grouping.value, storage=storage)


def open_all(
    names: Sequence[str], folder: ImageFolder, storage: Storage, check: Callable[[], None] = lambda: None
) -> Thumbnails:
    """Decode images from disk or storage and return their thumbnails (N, 32, 32); zeros for an unusable image."""
    found = np.zeros((len(names), SIDE, SIDE), np.uint8)

    def open_one(numbered: tuple[int, str]) -> tuple[int, Thumbnails | None]:
        index, key = numbered
        check()
        try:
            return index, thumbnail(decode_image(storage.read_bytes(join(folder.uri, key)), name=key))
        except DataError:  # validation and training report it
            return index, None

    def listed() -> Iterator[tuple[int, str]]:
        for index, name in enumerate(names):
            if name and (key := folder.names.find(name)) is not None:
                yield index, key

    with closing(each_done(open_one, listed(), threads=THREADS)) as done:
        for index, small in done:
            if small is not None:
                found[index] = small
    return found

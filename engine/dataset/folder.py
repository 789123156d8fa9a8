"""The images of a dataset on disk: in place where they are files, in a cache where they come from S3."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Self

from engine.dataset.layouts import find_single_part
from engine.dataset.names import FileNames
from engine.dataset.types import CocoImage
from engine.errors import DataError
from engine.storage import Storage, is_remote, join
from engine.storage.base import OnProgress


class ImageFolder:
    """Finds the file of an image. The folder is listed once, when it is first asked for something.

    Args:
        uri: Of the folder; images may lie anywhere below it.
        storage: How it is reached.
        cache: Where images from S3 are kept. Files of a folder on disk are used where they are.
    """

    def __init__(self, uri: str, *, storage: Storage, cache: Path) -> None:
        self.uri, self.storage, self.cache = uri, storage, cache

    @classmethod
    def of(cls, annotations: str, images: str | None = None, *, storage: Storage, cache: Path) -> Self:
        """The images that belong to annotations, found as for :func:`engine.dataset.load_dataset`."""
        part = find_single_part(annotations, images, storage=storage)
        return cls(part.images, storage=storage, cache=cache)

    @cached_property
    def _etags(self) -> dict[str, str]:
        """From key to what changes with the content."""
        return {item.key: item.etag for item in self.storage.list(self.uri)}

    @cached_property
    def _names(self) -> FileNames:
        return FileNames(self._etags)

    def sync(self, images: Iterable[CocoImage], *, on_progress: OnProgress | None = None) -> None:
        """Bring images to the disk, many at once, each once. Those that are :meth:`missing` are passed over.

        Raises:
            StorageError: Storage refuses, or was gone after all retries.
        """
        if not is_remote(self.uri):
            return
        keys = {key for image in images if (key := self._names.find(image.file_name)) is not None}
        pairs = [(join(self.uri, key), path) for key in sorted(keys) if not (path := self._cached(key)).exists()]
        self.storage.download_many(pairs, on_progress=on_progress)

    def path(self, image: CocoImage) -> Path:
        """Where the file of an image lies, after :meth:`sync`.

        Raises:
            DataError: The folder has no such file, or several that it may be.
        """
        key = self._names.find(image.file_name)
        if key is None:
            raise DataError(
                f"{image.file_name} is not in {self.uri}: upload it, take it out of the annotations, or give the "
                "folder that file_name is relative to"
            )
        folder = self.storage.local_path(self.uri)
        return folder / key if folder is not None else self._cached(key)

    def missing(self, images: Iterable[CocoImage]) -> Sequence[CocoImage]:
        """The images that the folder does not have."""
        return [image for image in images if self._names.find(image.file_name) is None]

    def _cached(self, key: str) -> Path:
        """A path that no other content has: a changed object is fetched anew."""
        digest = hashlib.sha256(f"{join(self.uri, key)} {self._etags[key]}".encode()).hexdigest()
        return self.cache / "images" / digest[:2] / (digest[2:32] + PurePosixPath(key).suffix)

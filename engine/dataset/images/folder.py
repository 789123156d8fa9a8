"""Image files of a dataset: used in place on disk, or downloaded from S3 to a cache."""

from __future__ import annotations

import hashlib
import logging
from array import array
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Self

from engine.dataset.export_layouts import find_single_split
from engine.dataset.file_listing import list_files, names_among
from engine.dataset.file_names import FileNames
from engine.dataset.images.cache_checksums import Sum, is_whole, record, sums_of
from engine.dataset.images.digest import fingerprint, local_marks, mark_of
from engine.dataset.types import CocoImage
from engine.errors import DataError
from engine.storage import Storage, is_remote, join
from engine.storage.base import OnProgress, Progress
from engine.storage.git_lfs import is_pointer
from engine.storage.transfer import each_done

LOG = logging.getLogger(__name__)


LEAST, MOST = 100, 200
"""Minimum and maximum bytes of a Git LFS pointer to an image."""


class ImageFolder:
    """Find the file of an image. The folder is listed once, on first use.

    Args:
        uri: URI of the folder; images may be at any depth below it.
        storage: Access to the folder.
        cache: Folder for images from S3. Files on disk are used in place.
    """

    def __init__(self, uri: str, *, storage: Storage, cache: Path) -> None:
        self.uri, self.storage, self.cache = uri, storage, cache

    @classmethod
    def of(cls, annotations: str, images: str | None = None, *, storage: Storage, cache: Path) -> Self:
        """Return the image folder of annotations, found as in :func:`engine.dataset.load_dataset`."""
        split = find_single_split(annotations, images, storage=storage)
        return cls(split.images, storage=storage, cache=cache)

    @cached_property
    def _etags(self) -> dict[str, tuple[str, int]]:
        """ETag (or a value that changes with the content) and size in bytes, by key."""
        return {
            item.key: (item.etag or f"modified {item.modified_ns}", item.size)
            for item in list_files(self.uri, self.storage)
            if not item.key.endswith(".json")
        }

    @cached_property
    def names(self) -> FileNames:
        """The existing files."""
        files = ((key, etag) for key, (etag, _) in self._etags.items())
        return names_among(files, self.storage.local_path(self.uri))

    def pointers(self, keys: Sequence[str | None]) -> list[str]:
        """Return images that are Git LFS pointers, validated by their size if the first of that size is one."""
        small = [key for key in keys if key is not None and LEAST <= self._etags[key][1] <= MOST]
        if not small or not is_pointer(self.storage.read_start(join(self.uri, small[0]), MOST)):
            return []
        return small

    def fingerprint(self, keys: Sequence[str | None]) -> str:
        """Return one digest of the content of images, in this order, at the time of the listing.

        Args:
            keys: Keys of the images; None for a missing one.
        """
        return fingerprint(mark or "-" for mark in self.marks(keys))

    def marks(self, keys: Sequence[str | None]) -> list[str]:
        """Return a mark of the content of each image: files on disk are read for it, once.

        Args:
            keys: Keys of the images; None for a missing one, whose mark is empty.
        """
        local = self.storage.local_path(self.uri)
        if local is not None:
            known = local_marks(local, (key for key in keys if key is not None), cache=self.cache)
            return ["" if key is None else known[key] for key in keys]
        return ["" if key is None else mark_of(*self._etags[key]) for key in keys]

    def size(self, key: str) -> int:
        """Return the size of a file in bytes, from the listing."""
        return self._etags[key][1]

    def sync(self, images: Sequence[CocoImage], *, on_progress: OnProgress | None = None) -> None:
        """Download images to the disk, in parallel, each once. :meth:`missing` images are skipped.

        Raises:
            StorageError: Storage refuses, or is unavailable after all retries.
        """
        size = 0
        with closing(self.bring(images)) as brought:
            for objects, index in enumerate(brought, start=1):
                if on_progress is not None:
                    size += self.path(images[index]).stat().st_size
                    on_progress(Progress(objects, size, len(images)))

    def bring(self, images: Sequence[CocoImage]) -> Generator[int, None, None]:
        """Download as :meth:`sync`, and yield the position of each image when its file is available. Close the
        generator.

        Images to download come first, so that work on the others does not delay the network.
        """
        remote, here, seen = is_remote(self.uri), array("q"), set[str]()
        sums: dict[Path, dict[str, Sum]] = {}

        def is_here(key: str, path: Path) -> bool:
            """Test whether an intact copy exists; a damaged one is removed and fetched again."""
            if not path.exists():
                return False
            if path.parent not in sums:
                sums[path.parent] = sums_of(path.parent)
            etag, size = self._etags[key]
            known = sums[path.parent].get(path.name)
            if is_whole(path, size=size, etag=etag, known=known):
                return True
            LOG.warning("the cached copy %s of %s %s: it is fetched again", path, join(self.uri, key), _fault(known))
            path.unlink(missing_ok=True)
            return False

        def absent() -> Iterator[tuple[int, str, str, Path]]:
            for index, image in enumerate(images):
                key = self.names.find(image.file_name)
                if key is None:
                    continue
                if remote and key not in seen and not is_here(key, path := self._cached(key)):
                    yield index, join(self.uri, key), self._etags[key][0], path
                else:
                    here.append(index)
                seen.add(key)

        def fetch(item: tuple[int, str, str, Path]) -> int:
            index, uri, etag, path = item
            self.storage.download(uri, path, etag=etag)
            record(path)
            return index

        yield from each_done(fetch, absent())
        yield from here

    def path(self, image: CocoImage) -> Path:
        """Return the path of an image's file, after :meth:`sync`.

        Raises:
            DataError: The folder has no such file, or several candidates.
        """
        key = self.names.find(image.file_name)
        if key is None:
            raise DataError(
                f"{image.file_name} is not in {self.uri}: upload it, take it out of the annotations, or give the "
                "folder that file_name is relative to"
            )
        folder = self.storage.local_path(self.uri)
        return folder / key if folder is not None else self._cached(key)

    def missing(self, images: Iterable[CocoImage]) -> Sequence[CocoImage]:
        """Return the images without a file in the folder."""
        return [image for image in images if self.names.find(image.file_name) is None]

    def _cached(self, key: str) -> Path:
        """Return a path that is unique for the content: a changed object is fetched again."""
        digest = hashlib.sha256(f"{join(self.uri, key)} {self._etags[key][0]}".encode()).hexdigest()
        return self.cache / "images" / digest[:2] / (digest[2:32] + PurePosixPath(key).suffix)


def _fault(known: Sum | None) -> str:
    return "is of an earlier version, without a checksum" if known is None else "is damaged"

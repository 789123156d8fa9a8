"""List the files of a folder that may belong to a dataset, without those of desktops and archive tools."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from engine.dataset.file_names import FileNames, is_junk
from engine.storage import ObjectInfo, Storage


def list_files(folder: str, storage: Storage) -> Iterator[ObjectInfo]:
    """Yield all files below a folder, sorted by key, except those that desktops and archive tools create.

    Raises:
        StorageError: The folder cannot be listed.
    """
    return (item for item in storage.list(folder) if not is_junk(item.key))


def list_names(folder: str, storage: Storage) -> FileNames:
    """Return the files that may be images of a dataset.

    Raises:
        StorageError: The folder cannot be listed.
    """
    files = ((item.key, item.etag) for item in list_files(folder, storage))
    return names_among(files, storage.local_path(folder))


def names_among(files: Iterable[tuple[str, str]], folder: Path | None) -> FileNames:
    """Return the names of files that may be images, with links resolved.

    Args:
        files: Key of each file, and a value that changes with its content.
        folder: The folder that was listed, if it is on a disk.
    """
    keys: list[str] = []
    hashes: list[int] = []
    for key, etag in files:
        if not key.endswith(".json"):
            keys.append(key)
            if folder is not None:
                hashes.append(hash(etag))
    return FileNames(keys, {} if folder is None else _links(keys, hashes, folder))


def _links(keys: list[str], hashes: list[int], folder: Path) -> dict[str, str]:
    """Return the keys of files that are links, each with the key of its target.

    Only files with the same size and modification time in the listing are compared.
    """
    _, group, counts = np.unique(np.array(hashes, np.int64), return_inverse=True, return_counts=True)
    first: dict[tuple[int, int], str] = {}
    links: dict[str, str] = {}
    for i in np.flatnonzero(counts[group] > 1).tolist():
        with suppress(OSError):  # deleted since
            status = (folder / keys[i]).stat()
            original = first.setdefault((status.st_dev, status.st_ino), keys[i])
            if original != keys[i]:
                links[keys[i]] = original
    return links

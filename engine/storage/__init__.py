"""Buckets (``s3://``, ``gs://``, ``az://``) and files (``file://``, ``pvc://``, paths) behind one small interface."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from engine.errors import ConfigError, TeacherError
from engine.storage.base import (
    Backend,
    ChangedError,
    ExistsError,
    NotFoundError,
    ObjectInfo,
    OnProgress,
    Progress,
    UnsupportedError,
)
from engine.storage.cache_folder import default_cache
from engine.storage.conditional_writes import honours_conditions
from engine.storage.endpoints import check_endpoint
from engine.storage.files import FileBackend, failures, walk
from engine.storage.gs_azure import CloudBackend
from engine.storage.options import StorageOptions
from engine.storage.s3 import S3Backend
from engine.storage.transfer import in_parallel
from engine.text.unsupported_schemes import refusal
from engine.text.uris import AZ, GS, S3, is_claim, is_remote, join, local_path, name, parent, safe_join

__all__ = [
    "ChangedError",
    "ExistsError",
    "NotFoundError",
    "ObjectInfo",
    "Progress",
    "Storage",
    "StorageOptions",
    "check_endpoint",
    "default_cache",
    "is_claim",
    "is_remote",
    "join",
    "local_path",
    "missing",
    "name",
    "parent",
    "safe_join",
]

SAY_EVERY = 10.0
"""Minimum seconds between two messages about retries, so that many retries do not fill the log."""


class Storage:
    """Reads and writes whole URIs. Safe to use from several threads.

    Temporary failures, such as an overloaded store, are retried a few times with growing pauses. ``on_retry`` receives
    a message about it, from any thread, at most every :data:`SAY_EVERY` seconds.

    Every method raises StorageError (for a missing object its subclass NotFoundError) with a message that contains the
    URI, and ConfigError for a URI or endpoint that cannot be used.
    """

    def __init__(self, options: StorageOptions | None = None, *, on_retry: Callable[[str], None] | None = None) -> None:
        self.options = options or StorageOptions()
        self.on_retry = on_retry
        self._files = FileBackend()
        self._saying = threading.Lock()
        self._said, self._unsaid = -SAY_EVERY, 0
        self._honours: dict[str, bool] = {}
        if self.options.endpoint_url:
            check_endpoint(self.options.endpoint_url)

    @cached_property
    def _remote(self) -> dict[str, Backend]:
        """One backend per bucket scheme; each connects on first use."""
        options = self.options.complete()
        clouds = {scheme: CloudBackend(scheme, options, self._say) for scheme in (GS, AZ)}
        return {S3: S3Backend(options, self._say), **clouds}

    def _say(self, sentence: str) -> None:
        with self._saying:
            if self.on_retry is None or time.monotonic() - self._said < SAY_EVERY:
                self._unsaid += 1
                return
            others, self._unsaid, self._said = self._unsaid, 0, time.monotonic()
            self.on_retry(sentence + (f" ({others:,} other retries before)" if others else ""))

    def _backend(self, uri: str) -> Backend:
        if is_remote(uri):
            return self._remote[uri[: len(S3)]]
        refused = refusal(uri)
        if refused is not None:
            raise ConfigError(refused)
        return self._files

    def exists(self, uri: str) -> bool:
        """Return True if the object exists."""
        return self._backend(uri).head(uri) is not None

    def head(self, uri: str) -> ObjectInfo | None:
        """Return the metadata of an object; None if it does not exist."""
        return self._backend(uri).head(uri)

    def is_prefix(self, uri: str) -> bool:
        """Return True if there is at least one object below this folder."""
        return next(iter(self.list(uri)), None) is not None

    def read_bytes(self, uri: str) -> bytes:
        """Return the content of an object."""
        return self._backend(uri).read(uri)

    def read_start(self, uri: str, size: int) -> bytes:
        """Return the first ``size`` bytes of an object, or all of a shorter one."""
        with self._backend(uri).open(uri) as stream:
            return stream.read(size)

    def open(self, uri: str) -> BinaryIO:
        """Read an object as a stream."""
        return self._backend(uri).open(uri)

    def open_checked(self, uri: str) -> BinaryIO:
        """Open an object whose checksum is verified before use, if it is small: see :meth:`S3Backend.open_checked`."""
        backend = self._backend(uri)
        return backend.open_checked(uri) if isinstance(backend, S3Backend) else backend.open(uri)

    def write_bytes(
        self, uri: str, data: bytes, *, content_type: str | None = None, only_if_absent: bool = False
    ) -> None:
        """Write an object: readers see the old content or all of the new.

        If a store does not support the condition that an object is absent, its existence is checked first; then two
        concurrent writers may both succeed. See :meth:`honours_conditions`.

        Raises:
            ExistsError: ``only_if_absent`` is set and the object exists with other content.
        """
        backend = self._backend(uri)
        try:
            backend.write(uri, data, content_type=content_type, only_if_absent=only_if_absent)
        except UnsupportedError:
            if not only_if_absent:
                raise
            if backend.head(uri) is None:
                backend.write(uri, data, content_type=content_type, only_if_absent=False)
            elif self.read_bytes(uri) != data:
                raise ExistsError(f"{uri} exists already") from None
        except ExistsError:
            # If the answer to a first attempt was lost, the second attempt finds the object that the first has written.
            if self.read_bytes(uri) != data:
                raise

    def honours_conditions(self, folder: str) -> bool:
        """Test, once per folder, that ``only_if_absent`` is reliable with concurrent writers.

        Raises:
            StorageError: The folder cannot be written to, or concurrent attempts cannot be kept apart: see
                :func:`engine.storage.conditional_writes.honours_conditions`.
        """
        if not is_remote(folder):
            return True
        if folder not in self._honours:
            self._honours[folder] = honours_conditions(folder, self._backend(folder))
        return self._honours[folder]

    def note(self, sentence: str) -> None:
        """Report a message about storage as a whole, in the same way as retries."""
        if self.on_retry is not None:
            self.on_retry(sentence)

    def list(self, folder: str) -> Iterator[ObjectInfo]:
        """Yield all objects below a folder, sorted by key; nothing if the folder does not exist."""
        return self._backend(folder).list(folder)

    def copy(self, source: str, target: str) -> None:
        """Copy an object within the same kind of storage, atomically and without a download."""
        self._backend(source).copy(source, target)

    def delete(self, uri: str) -> None:
        """Delete an object; a missing object is not an error."""
        self._backend(uri).delete(uri)

    def local_path(self, uri: str) -> Path | None:
        """Return the path of a file that needs no download; None for an object in a bucket."""
        return local_path(uri) if self._backend(uri) is self._files else None

    def download(self, uri: str, path: Path, *, etag: str | None = None) -> Path:
        """Copy an object to a path. The path holds the complete object or does not exist.

        Raises:
            ChangedError: The object has no longer this ETag.
        """
        self._backend(uri).download(uri, path, etag)
        return path

    def upload(self, path: Path, uri: str) -> None:
        """Copy a file to an object."""
        self._backend(uri).upload(path, uri)

    def download_many(self, pairs: Iterable[tuple[str, Path]], *, on_progress: OnProgress | None = None) -> None:
        """Copy objects to paths in parallel. The first failure stops the rest and is raised.

        A path that already holds a copy, with the object's size and modification time, is skipped: an interrupted
        transfer continues. Pairs may be a generator: few are held in memory.
        """

        def one(pair: tuple[str, Path]) -> int:
            uri, path = pair
            with failures(str(path), "written"):
                known = self._backend(uri).head(uri) if path.is_file() else None
            return self._fetch(uri, path, known)

        in_parallel(one, pairs, on_progress, objects_total=len(pairs) if isinstance(pairs, Sized) else None)

    def download_folder(self, folder: str, path: Path, *, on_progress: OnProgress | None = None) -> None:
        """Copy all objects below a folder as :meth:`download_many` does.

        Raises:
            DataError: A key points outside the folder.
        """
        in_parallel(lambda item: self._fetch(item.uri, safe_join(path, item.key), item), self.list(folder), on_progress)

    def _fetch(self, uri: str, path: Path, known: ObjectInfo | None) -> int:
        with failures(str(path), "written"):
            if known is None or not _is_copy(path, known):
                self.download(uri, path)
            return path.stat().st_size

    def upload_many(self, pairs: Sequence[tuple[Path, str]], *, on_progress: OnProgress | None = None) -> None:
        """Copy files to objects in parallel. The first failure stops the rest and is raised."""
        sizes = {}
        for path, _ in pairs:
            with failures(str(path), "read"):
                sizes[path] = path.stat().st_size

        def one(pair: tuple[Path, str]) -> int:
            self.upload(*pair)
            return sizes[pair[0]]

        in_parallel(one, pairs, on_progress, objects_total=len(pairs), bytes_total=sum(sizes.values()))

    def upload_folder(self, path: Path, folder: str, *, on_progress: OnProgress | None = None) -> Sequence[str]:
        """Copy all files below a path in parallel.

        Returns:
            The URIs written, sorted by key.

        Raises:
            NotFoundError: The folder does not exist.
        """
        if not path.is_dir():
            raise NotFoundError(f"{path} cannot be copied to {folder}: the folder does not exist")
        with failures(str(path), "read"):
            pairs = [(path / key, join(folder, key)) for key, _ in walk(path)]
        self.upload_many(pairs, on_progress=on_progress)
        return [uri for _, uri in pairs]


def missing(uri: str, message: str) -> TeacherError:
    """Return the error for what the user named and does not exist: a mistyped path appears at no later attempt.

    An object may still be uploaded, and a claim be mounted or filled: these are failures of storage.
    """
    return NotFoundError(message) if is_remote(uri) or is_claim(uri) else ConfigError(message)


def _is_copy(path: Path, original: ObjectInfo) -> bool:
    """Return True if the file is a download of the object as it is now. Adapters of two runs have the same size."""
    if not path.is_file():
        return False
    status = path.stat()
    return (status.st_size, status.st_mtime_ns) == (original.size, original.modified_ns)

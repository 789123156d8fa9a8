"""Object storage: ``s3://`` and ``file://`` (or a plain path) behind one small interface."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from engine.errors import ConfigError
from engine.storage.base import Backend, ExistsError, NotFoundError, ObjectInfo, OnProgress, TransferProgress
from engine.storage.endpoints import check_endpoint
from engine.storage.files import FileBackend
from engine.storage.s3 import S3Backend
from engine.storage.uris import is_remote, join, local_path, name, parent, safe_join

__all__ = [
    "ExistsError",
    "NotFoundError",
    "ObjectInfo",
    "Storage",
    "StorageOptions",
    "TransferProgress",
    "check_endpoint",
    "is_remote",
    "join",
    "local_path",
    "name",
    "parent",
    "safe_join",
]

THREADS = 16


@dataclass(frozen=True)
class StorageOptions:
    """How S3 is reached. Credentials come from the standard AWS chain."""

    endpoint_url: str | None = None
    """Of an S3-compatible store; default: what AWS_ENDPOINT_URL says, else AWS."""
    region: str | None = None
    """Default: what the AWS chain says."""


class Storage:
    """Reads and writes whole URIs. Safe to use from several threads.

    Every method raises StorageError (of a missing object its subclass NotFoundError) with a sentence that names the
    URI, and ConfigError for a URI or endpoint that cannot be used.
    """

    def __init__(self, options: StorageOptions | None = None) -> None:
        self.options = options or StorageOptions()
        self._files = FileBackend()
        if self.options.endpoint_url:
            check_endpoint(self.options.endpoint_url)

    @cached_property
    def _s3(self) -> S3Backend:
        return S3Backend(self.options.endpoint_url, self.options.region)

    def _backend(self, uri: str) -> Backend:
        if is_remote(uri):
            return self._s3
        scheme, separator, _ = uri.partition("://")
        if separator and scheme != "file":
            raise ConfigError(f"{uri!r}: there is no storage for {scheme}://, write s3://, file:// or a path")
        return self._files

    def exists(self, uri: str) -> bool:
        """Whether there is such an object."""
        return self._backend(uri).head(uri) is not None

    def is_prefix(self, uri: str) -> bool:
        """Whether there is at least one object below this folder."""
        return next(iter(self.list(uri)), None) is not None

    def read_bytes(self, uri: str) -> bytes:
        """The content of an object."""
        with self.open(uri) as stream:
            return stream.read()

    def open(self, uri: str) -> BinaryIO:
        """Read an object as a stream."""
        return self._backend(uri).open(uri)

    def write_bytes(
        self, uri: str, data: bytes, *, content_type: str | None = None, only_if_absent: bool = False
    ) -> None:
        """Write an object: readers see the old content or all of the new.

        Raises:
            ExistsError: ``only_if_absent``, and it is there.
        """
        self._backend(uri).write(uri, data, content_type=content_type, only_if_absent=only_if_absent)

    def list(self, folder: str) -> Iterator[ObjectInfo]:
        """All objects below a folder, sorted by key, as they come; nothing for a folder that is not there."""
        return self._backend(folder).list(folder)

    def delete(self, uri: str) -> None:
        """Delete an object; one that is not there is no error."""
        self._backend(uri).delete(uri)

    def local_path(self, uri: str) -> Path | None:
        """The path of a file that needs no download; None for an object in S3."""
        return None if is_remote(uri) else local_path(uri)

    def download(self, uri: str, path: Path) -> Path:
        """Copy an object to a path, which holds all of it or is not there."""
        self._backend(uri).download(uri, path)
        return path

    def upload(self, path: Path, uri: str) -> None:
        """Copy a file to an object."""
        self._backend(uri).upload(path, uri)

    def download_many(self, pairs: Iterable[tuple[str, Path]], *, on_progress: OnProgress | None = None) -> None:
        """Copy objects to paths, many at once. The first failure stops the rest and is raised."""

        def one(pair: tuple[str, Path]) -> int:
            return self.download(*pair).stat().st_size

        _in_parallel(one, pairs, on_progress)

    def download_folder(self, folder: str, path: Path, *, on_progress: OnProgress | None = None) -> None:
        """Copy all objects below a folder."""
        self.download_many(
            ((item.uri, safe_join(path, item.key)) for item in self.list(folder)), on_progress=on_progress
        )

    def upload_folder(self, path: Path, folder: str, *, on_progress: OnProgress | None = None) -> Sequence[str]:
        """Copy all files below a path, many at once.

        Returns:
            The URIs written, sorted.
        """
        files = [file for file in sorted(path.rglob("*")) if file.is_file()]
        pairs = [(join(folder, file.relative_to(path).as_posix()), file) for file in files]

        def one(pair: tuple[str, Path]) -> int:
            uri, file = pair
            self.upload(file, uri)
            return file.stat().st_size

        _in_parallel(one, pairs, on_progress)
        return [uri for uri, _ in pairs]


def _in_parallel(
    work: Callable[[tuple[str, Path]], int], pairs: Iterable[tuple[str, Path]], on_progress: OnProgress | None
) -> None:
    """Do ``work`` on every pair in threads, with a bounded number of pairs under way."""
    total = len(pairs) if isinstance(pairs, list) else None
    objects = size = 0
    stopped = threading.Event()

    def guarded(pair: tuple[str, Path]) -> int:
        return 0 if stopped.is_set() else work(pair)

    def settle(done: set[Future[int]]) -> None:
        nonlocal objects, size
        for future in done:
            size += future.result()
            objects += 1
        if on_progress is not None and done:
            on_progress(TransferProgress(objects=objects, objects_total=total, bytes=size))

    with ThreadPoolExecutor(THREADS) as pool:
        pending: set[Future[int]] = set()
        try:
            for pair in pairs:
                pending.add(pool.submit(guarded, pair))
                if len(pending) >= 4 * THREADS:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    settle(done)
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                settle(done)
        except BaseException:
            stopped.set()
            raise

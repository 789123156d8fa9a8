"""The interface of storage backends, and their data types and errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from engine.errors import StorageError


class NotFoundError(StorageError):
    """The object, folder or bucket does not exist."""


class ExistsError(StorageError):
    """A write on condition that the object is absent failed: the object exists."""


class ChangedError(StorageError):
    """An object was changed after it was listed."""


class BrokenError(StorageError):
    """A connection was closed early, in a step that the store's client does not retry."""


class UnsupportedError(StorageError):
    """The store does not support the request."""


@dataclass(frozen=True)
class ObjectInfo:
    """One object of a listing."""

    uri: str
    key: str
    """Relative to the folder that was listed."""
    size: int
    """Bytes."""
    etag: str
    """Changes when the content does."""
    modified_ns: int
    """Modification time in nanoseconds since the epoch; S3 has whole seconds. Downloaded files get the same time."""


@dataclass(frozen=True)
class Progress:
    """Progress of a transfer of many objects; totals are None if they are not known in advance."""

    objects: int
    bytes: int
    objects_total: int | None = None
    bytes_total: int | None = None


OnProgress = Callable[[Progress], None]


class Backend(Protocol):
    """One kind of store. URIs are complete; failures are StorageErrors that contain the URI."""

    def head(self, uri: str) -> ObjectInfo | None:
        """Return the metadata of the object at ``uri``, or None."""

    def read(self, uri: str) -> bytes:
        """Return the content of the object."""

    def open(self, uri: str) -> BinaryIO:
        """Read the object as a stream."""

    def write(self, uri: str, data: bytes, *, content_type: str | None, only_if_absent: bool) -> None:
        """Write an object atomically.

        Raises:
            ExistsError: ``only_if_absent`` is set and the object exists.
            UnsupportedError: ``only_if_absent`` is set and the store does not support this condition.
        """

    def list(self, folder: str) -> Iterator[ObjectInfo]:
        """Yield all objects below a folder, sorted by key."""

    def download(self, uri: str, path: Path, etag: str | None = None) -> None:
        """Copy an object, with its modification time, to a path. The path holds the complete object or does not exist.

        Raises:
            ChangedError: The object has another ETag.
        """

    def upload(self, path: Path, uri: str) -> None:
        """Copy a file to an object."""

    def copy(self, source: str, target: str) -> None:
        """Copy an object within the same store, atomically."""

    def delete(self, uri: str) -> None:
        """Delete an object; a missing object is not an error."""

"""What a backend of the storage can do, and what it says of objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from engine.errors import StorageError


class NotFoundError(StorageError):
    """There is no such object, folder or bucket."""


class ExistsError(StorageError):
    """An object that was to be written only if absent is there."""


class ChangedError(StorageError):
    """An object is no longer the one that was listed."""


class BrokenError(StorageError):
    """A connection broke off where the client of the store heeds no faults."""


class UnsupportedError(StorageError):
    """The store does not know what was asked of it."""


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
    """When it was written, in nanoseconds since the epoch; S3 tells whole seconds. A download gets it as its own."""


@dataclass(frozen=True)
class Progress:
    """How far a transfer of many objects has come; totals are None where they are not known beforehand."""

    objects: int
    bytes: int
    objects_total: int | None = None
    bytes_total: int | None = None


OnProgress = Callable[[Progress], None]


class Backend(Protocol):
    """One kind of store. URIs are whole; failures are StorageErrors that name them."""

    def head(self, uri: str) -> ObjectInfo | None:
        """The object at ``uri``, or None."""

    def read(self, uri: str) -> bytes:
        """The content of the object."""

    def open(self, uri: str) -> BinaryIO:
        """Read the object as a stream."""

    def write(self, uri: str, data: bytes, *, content_type: str | None, only_if_absent: bool) -> None:
        """Write an object, all at once.

        Raises:
            ExistsError: ``only_if_absent``, and it is there.
            UnsupportedError: ``only_if_absent``, and the store does not know that condition.
        """

    def list(self, folder: str) -> Iterator[ObjectInfo]:
        """All objects below a folder, sorted by key."""

    def download(self, uri: str, path: Path, etag: str | None = None) -> None:
        """Copy an object to a path, which holds all of it, with its time of change, or is not there.

        Raises:
            ChangedError: It is not the one that was listed with this ETag.
        """

    def upload(self, path: Path, uri: str) -> None:
        """Copy a file to an object."""

    def copy(self, source: str, target: str) -> None:
        """Copy an object to another place in the same store, all at once."""

    def delete(self, uri: str) -> None:
        """Delete an object; one that is not there is no error."""

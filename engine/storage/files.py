"""``file://`` and plain paths."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from engine.errors import StorageError
from engine.storage.base import ExistsError, NotFoundError, ObjectInfo
from engine.storage.uris import join, local_path

ADVICE = {
    errno.EACCES: "this user may not: check its permissions",
    errno.EPERM: "this user may not: check its permissions",
    errno.EROFS: "the disk is read-only: choose another folder",
    errno.ENOSPC: "the disk is full: free some room or choose another disk",
    errno.EDQUOT: "the quota is used up: free some room",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder, not a file",
}


class FileBackend:
    """A file system as a store: objects are files, written under a temporary name and renamed."""

    def head(self, uri: str) -> ObjectInfo | None:
        """The file at ``uri``, or None."""
        path = local_path(uri)
        with _failures(uri, "looked at"):
            return _info(uri, path.name, path) if path.is_file() else None

    def open(self, uri: str) -> BinaryIO:
        """Read a file."""
        with _failures(uri, "read"):
            return local_path(uri).open("rb")

    def write(self, uri: str, data: bytes, *, content_type: str | None, only_if_absent: bool) -> None:
        """Write a file, all at once."""
        path = local_path(uri)
        with _failures(uri, "written"), replacing(path, only_if_absent=only_if_absent) as temporary:
            temporary.write_bytes(data)

    def list(self, folder: str) -> Iterator[ObjectInfo]:
        """All files below a folder, sorted by key."""
        with _failures(folder, "listed"):
            for path, key in _walk(local_path(folder), ""):
                yield _info(join(folder, key), key, path)

    def download(self, uri: str, path: Path) -> None:
        """Copy a file."""
        with _failures(uri, "read"), replacing(path) as temporary:
            shutil.copyfile(local_path(uri), temporary)

    def upload(self, path: Path, uri: str) -> None:
        """Copy a file."""
        if local_path(uri).resolve() == path.resolve():
            return
        with _failures(uri, "written"), replacing(local_path(uri)) as temporary:
            shutil.copyfile(path, temporary)

    def delete(self, uri: str) -> None:
        """Delete a file."""
        with _failures(uri, "deleted"):
            local_path(uri).unlink(missing_ok=True)


def _walk(folder: Path, prefix: str) -> Iterator[tuple[Path, str]]:
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _walk(path, f"{prefix}{path.name}/")
        elif path.is_file():
            yield path, prefix + path.name


def _info(uri: str, key: str, path: Path) -> ObjectInfo:
    status = path.stat()
    return ObjectInfo(uri=uri, key=key, size=status.st_size, etag=f"{status.st_mtime_ns:x}-{status.st_size:x}")


@contextmanager
def replacing(path: Path, *, only_if_absent: bool = False) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place at the end of the block, if nothing failed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex}")
    try:
        yield temporary
        if only_if_absent:
            os.link(temporary, path)
        else:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _failures(uri: str, done: str) -> Iterator[None]:
    """Operating system errors as sentences."""
    try:
        yield
    except FileNotFoundError:
        raise NotFoundError(f"{uri} is not there: check the path, relative ones start at {Path.cwd()}") from None
    except FileExistsError:
        raise ExistsError(f"{uri} is there already") from None
    except OSError as error:
        advice = ADVICE.get(error.errno or 0, error.strerror or str(error))
        raise StorageError(f"{uri} cannot be {done}: {advice}") from None

"""``file://`` and plain paths."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from engine.errors import ConfigError, StorageError
from engine.storage.base import ExistsError, NotFoundError, ObjectInfo
from engine.text.uris import is_claim, join, local_path

ADVICE = {
    errno.ENOENT: "it does not exist",
    errno.EACCES: "permission denied for this user: check its permissions",
    errno.EPERM: "permission denied for this user: check its permissions",
    errno.EROFS: "the disk is read-only: choose another folder",
    errno.ENOSPC: "the disk is full: free some space or choose another disk",
    errno.EDQUOT: "the quota is used up: free some space",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder, not a file",
    errno.ENAMETOOLONG: "the name is too long for this disk",
    errno.ESTALE: "another machine has replaced or deleted it in the meantime: run it again",
}
OF_PODS = "; pods run as user and group 65532, which need access to the files on the claim"
NO_LINKS = frozenset({errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS})
"""Errors of file systems without hard links, or with no more of them."""

TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.partial(\.\w+)?")
"""Name of a temporary file of :func:`replacing`; boto3 appends a suffix."""

AT_WORKING_DIRECTORY, NO_REPLACE = -100, 1
"""Arguments of ``renameat2`` of Linux, which Python does not offer."""


class FileBackend:
    """A file system as a store: objects are files, written to a temporary name and renamed."""

    def head(self, uri: str) -> ObjectInfo | None:
        """Return the metadata of the file at ``uri``, or None."""
        path = local_path(uri)
        with failures(uri, "accessed"):
            return _info(uri, path.name, path.stat()) if path.is_file() else None

    def read(self, uri: str) -> bytes:
        """Return the content of a file."""
        with failures(uri, "read"):
            return local_path(uri).read_bytes()

    def open(self, uri: str) -> BinaryIO:
        """Read a file as a stream."""
        with failures(uri, "read"):
            return local_path(uri).open("rb")

    def write(self, uri: str, data: bytes, *, content_type: str | None, only_if_absent: bool) -> None:
        """Write a file atomically."""
        with failures(uri, "written"), replacing(local_path(uri), only_if_absent=only_if_absent) as temporary:
            temporary.write_bytes(data)
            _settle(temporary)

    def list(self, folder: str) -> Iterator[ObjectInfo]:
        """Yield all files below a folder, sorted by key."""
        with failures(folder, "listed"):
            for key, status in walk(local_path(folder)):
                yield _info(join(folder, key), key, status)

    def download(self, uri: str, path: Path, etag: str | None = None) -> None:
        """Copy a file as it is now, with its modification time. The ETag is not checked."""
        with failures(uri, "read"), replacing(path) as temporary:
            status = local_path(uri).stat()
            shutil.copyfile(local_path(uri), temporary)
            os.utime(temporary, ns=(status.st_mtime_ns, status.st_mtime_ns))

    def upload(self, path: Path, uri: str) -> None:
        """Copy a file."""
        target = local_path(uri)
        with failures(uri, "written"):
            if target.exists() and target.samefile(path):
                return
            with replacing(target) as temporary:
                shutil.copyfile(path, temporary)
                _settle(temporary)

    def copy(self, source: str, target: str) -> None:
        """Create a hard link to a file, or copy it if the file system has no hard links."""
        with failures(source, f"copied to {target}"), replacing(local_path(target)) as temporary:
            try:
                os.link(local_path(source), temporary)
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                shutil.copyfile(local_path(source), temporary)
                _settle(temporary)

    def delete(self, uri: str) -> None:
        """Delete a file."""
        with failures(uri, "deleted"):
            local_path(uri).unlink(missing_ok=True)


def walk(folder: Path, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Yield the keys of all files below a folder, sorted as in S3; links are followed."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: f"{entry.name}/" if entry.is_dir() else entry.name)
    except (FileNotFoundError, NotADirectoryError):  # not checked beforehand, since it may be deleted in between
        return
    for entry in entries:
        with suppress(FileNotFoundError):  # deleted since
            if entry.is_dir():
                yield from walk(folder / entry.name, f"{prefix}{entry.name}/")
            elif entry.is_file() and not TEMPORARY.fullmatch(entry.name):
                yield prefix + entry.name, entry.stat()


def _settle(path: Path) -> None:
    """Flush a file to disk before it is renamed: otherwise a power cut can leave the name with part of the content."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _info(uri: str, key: str, status: os.stat_result) -> ObjectInfo:
    etag = f"{status.st_mtime_ns:x}-{status.st_size:x}"
    return ObjectInfo(uri=uri, key=key, size=status.st_size, etag=etag, modified_ns=status.st_mtime_ns)


@contextmanager
def replacing(path: Path, *, only_if_absent: bool = False) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; it replaces ``path`` at the end of the block, unless that failed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        yield temporary
        if only_if_absent:
            try:
                os.link(temporary, path)
            except FileExistsError:
                raise ExistsError(f"{path} exists already") from None
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                if not _renamed_if_absent(temporary, path):
                    _claim(path)
                    temporary.replace(path)
        else:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _renamed_if_absent(temporary: Path, path: Path) -> bool:
    """Rename a file atomically if the target is absent; False if the file system cannot. SMB can, without hard links.

    Raises:
        ExistsError: The file exists.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    here = AT_WORKING_DIRECTORY
    if rename(here, os.fsencode(temporary), here, os.fsencode(path), NO_REPLACE) == 0:
        return True
    if ctypes.get_errno() == errno.EEXIST:
        raise ExistsError(f"{path} exists already")
    return False


def _claim(path: Path) -> None:
    """Create an empty file, or fail if it exists: on some file systems the only exclusive operation.

    A process that is killed between this and the rename leaves an empty file.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        raise ExistsError(f"{path} exists already") from None


def reason(error: OSError, uri: str) -> str:
    """Describe an error of the operating system and the remedy, with the path if it is not that of the URI."""
    advice = ADVICE.get(error.errno or 0, error.strerror or str(error))
    if is_claim(uri) and error.errno in (errno.EACCES, errno.EPERM):
        advice += OF_PODS
    path = error.filename2 or error.filename
    return advice if path is None or Path(os.fsdecode(path)) == local_path(uri) else f"{os.fsdecode(path)}: {advice}"


@contextmanager
def failures(uri: str, done: str) -> Iterator[None]:
    """Turn operating system errors into StorageErrors with a remedy."""
    try:
        yield
    except OSError as error:
        missing = error.errno == errno.ENOENT and error.filename is not None
        if missing and Path(os.fsdecode(error.filename)) == local_path(uri):
            where = "" if local_path(uri).is_absolute() else f", relative paths start at {Path.cwd()}"
            raise NotFoundError(f"{uri} does not exist: check the path{where}") from None
        raise StorageError(f"{uri} cannot be {done}: {reason(error, uri)}") from None
    except ValueError as error:
        raise ConfigError(f"{uri!r} cannot be {done}: this is not a valid file name ({error})") from None

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
from engine.storage.uris import is_claim, join, local_path

ADVICE = {
    errno.ENOENT: "it is not there",
    errno.EACCES: "this user may not: check its permissions",
    errno.EPERM: "this user may not: check its permissions",
    errno.EROFS: "the disk is read-only: choose another folder",
    errno.ENOSPC: "the disk is full: free some room or choose another disk",
    errno.EDQUOT: "the quota is used up: free some room",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder, not a file",
    errno.ENAMETOOLONG: "the name is too long for this disk",
    errno.ESTALE: "another machine has replaced or deleted it meanwhile: run it again",
}
OF_PODS = "; pods run as user and group 65532, which the files on the claim have to be open to"
NO_LINKS = frozenset({errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS})
"""What a disk answers that has no hard links, or no more of them."""

TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.partial(\.\w+)?")
"""What :func:`replacing` writes to; boto3 appends a suffix of its own."""

AT_WORKING_DIRECTORY, NO_REPLACE = -100, 1
"""Arguments of Linux' ``renameat2``, which Python does not have."""


class FileBackend:
    """A file system as a store: objects are files, written under a temporary name and renamed."""

    def head(self, uri: str) -> ObjectInfo | None:
        """The file at ``uri``, or None."""
        path = local_path(uri)
        with failures(uri, "looked at"):
            return _info(uri, path.name, path.stat()) if path.is_file() else None

    def read(self, uri: str) -> bytes:
        """The content of a file."""
        with failures(uri, "read"):
            return local_path(uri).read_bytes()

    def open(self, uri: str) -> BinaryIO:
        """Read a file as a stream."""
        with failures(uri, "read"):
            return local_path(uri).open("rb")

    def write(self, uri: str, data: bytes, *, content_type: str | None, only_if_absent: bool) -> None:
        """Write a file, all at once."""
        with failures(uri, "written"), replacing(local_path(uri), only_if_absent=only_if_absent) as temporary:
            temporary.write_bytes(data)
            _settle(temporary)

    def list(self, folder: str) -> Iterator[ObjectInfo]:
        """All files below a folder, sorted by key."""
        with failures(folder, "listed"):
            for key, status in walk(local_path(folder)):
                yield _info(join(folder, key), key, status)

    def download(self, uri: str, path: Path, etag: str | None = None) -> None:
        """Copy a file, with its time of change; as it is now, whatever was listed."""
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
        """Give a file a second name, or copy it where a disk has no such thing."""
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
    """Keys of all files below a folder, sorted as S3 sorts them; links are followed."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: f"{entry.name}/" if entry.is_dir() else entry.name)
    except (FileNotFoundError, NotADirectoryError):  # asked for first, it might be deleted in between
        return
    for entry in entries:
        with suppress(FileNotFoundError):  # deleted since
            if entry.is_dir():
                yield from walk(folder / entry.name, f"{prefix}{entry.name}/")
            elif entry.is_file() and not TEMPORARY.fullmatch(entry.name):
                yield prefix + entry.name, entry.stat()


def _settle(path: Path) -> None:
    """Have a file on its disk before its name is: after a power cut a name would have half of it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _info(uri: str, key: str, status: os.stat_result) -> ObjectInfo:
    etag = f"{status.st_mtime_ns:x}-{status.st_size:x}"
    return ObjectInfo(uri=uri, key=key, size=status.st_size, etag=etag, modified_ns=status.st_mtime_ns)


@contextmanager
def replacing(path: Path, *, only_if_absent: bool = False) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place at the end of the block, if nothing failed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        yield temporary
        if only_if_absent:
            try:
                os.link(temporary, path)
            except FileExistsError:
                raise ExistsError(f"{path} is there already") from None
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
    """Rename a file in one step, as a share of SMB can, which has no hard links; False where the disk cannot.

    Raises:
        ExistsError: There is such a file.
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
    """Have an empty file that nobody else has made: some disks do nothing else in one step that only one can do.

    A process that is killed between this and the rename leaves an empty file.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        raise ExistsError(f"{path} is there already") from None


def reason(error: OSError, uri: str) -> str:
    """Why the operating system refused and what to do, naming the path where the URI is another."""
    advice = ADVICE.get(error.errno or 0, error.strerror or str(error))
    if is_claim(uri) and error.errno in (errno.EACCES, errno.EPERM):
        advice += OF_PODS
    path = error.filename2 or error.filename
    return advice if path is None or Path(os.fsdecode(path)) == local_path(uri) else f"{os.fsdecode(path)}: {advice}"


@contextmanager
def failures(uri: str, done: str) -> Iterator[None]:
    """Operating system errors as sentences."""
    try:
        yield
    except OSError as error:
        missing = error.errno == errno.ENOENT and error.filename is not None
        if missing and Path(os.fsdecode(error.filename)) == local_path(uri):
            where = "" if local_path(uri).is_absolute() else f", relative ones start at {Path.cwd()}"
            raise NotFoundError(f"{uri} is not there: check the path{where}") from None
        raise StorageError(f"{uri} cannot be {done}: {reason(error, uri)}") from None
    except ValueError as error:
        raise ConfigError(f"{uri!r} cannot be {done}: no file can be called so ({error})") from None

"""Unpack zip files into the cache, once, within limits.

Archives are refused if they would fill the disk or are zip bombs, are encrypted, or contain links, devices, two files
with one name, or names that lead out of the folder. Files that macOS and Windows add to archives are skipped.
"""

from __future__ import annotations

import calendar
import hashlib
import json
import os
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import BinaryIO

from engine.dataset.file_names import is_junk
from engine.errors import DataError, MachineError, StorageError
from engine.storage import Storage, default_cache, missing, safe_join
from engine.storage.files import failures, reason

ZIP = b"PK"
"""First bytes of a zip archive."""

LARGE, MOST_RATIO = 1 << 30, 100
"""An archive is a zip bomb if it unpacks to more than this many bytes and more than this many times its size."""

LARGEST_DIRECTORY = 300 << 20
"""Maximum bytes of the list of files in an archive, about two million names."""

SPARE = 1 << 30
"""Bytes to keep free on the disk."""

_EARLIEST = 315_532_800
"""Start of 1980, for files with an invalid time."""

_FILES, _INDEX = "files", "index.json"


def unpack(uri: str, *, storage: Storage) -> str:
    """Return the cache folder with the files of a zip archive.

    An archive is unpacked once; the result is reused while sizes and times of all its files are unchanged.

    Raises:
        DataError: The archive is damaged, encrypted, a zip bomb, or contains anything but regular files in its folder.
        MachineError: The disk is too small.
        StorageError: It cannot be read, or the cache cannot be written.
    """
    info = storage.head(uri)
    if info is None:
        raise missing(uri, f"{uri} does not exist: check the path")
    seen = f"{uri}\0{info.size}\0{info.etag}"
    folder = default_cache() / "unpacked" / hashlib.sha256(seen.encode(errors="surrogateescape")).hexdigest()[:32]
    if _is_whole(folder):
        return str(folder / _FILES)
    with failures(str(folder), "written"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(mkdtemp(prefix=".unpacking-", dir=folder.parent))
    try:
        path = storage.local_path(uri)
        if path is None:
            _check_room(uri, info.size, temporary)
            path = storage.download(uri, temporary / "archive.zip")
        _unpack(uri, path, temporary)
        (temporary / "archive.zip").unlink(missing_ok=True)
        _put(temporary, folder)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {reason(error, str(folder))}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return str(folder / _FILES)


def _unpack(uri: str, path: Path, folder: Path) -> None:
    """Write the files of an archive and an index of them."""
    index: dict[str, tuple[int, int]] = {}
    with _failures(uri), path.open("rb") as file:
        _check_directory(uri, file)
        with zipfile.ZipFile(file) as archive:
            entries = dict(_entries(uri, archive))
            if not entries:
                raise DataError(f"{uri} holds no files: pack the dataset again")
            total = sum(entry.file_size for entry in entries.values())
            if total > LARGE and total > MOST_RATIO * path.stat().st_size:
                raise DataError(
                    f"{uri} would grow from {path.stat().st_size:,} to {total:,} bytes: this looks like a zip bomb and "
                    "is not unpacked. Unpack it yourself if you trust it, and give the folder"
                )
            _check_room(uri, total, folder)
            for key, entry in entries.items():
                target = safe_join(folder / _FILES, key)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as packed, target.open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked, 1 << 20)
                os.utime(target, (_time(entry), _time(entry)))
                index[key] = entry.file_size, target.stat().st_mtime_ns
    (folder / _FILES).mkdir(exist_ok=True)
    (folder / _INDEX).write_text(json.dumps(index), encoding="utf-8")


def _entries(uri: str, archive: zipfile.ZipFile) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    """Yield the files of an archive with their names.

    Raises:
        DataError: One of them must not be unpacked.
    """
    seen: set[str] = set()
    for entry in archive.infolist():
        name = _name(entry)
        if name.endswith("/") or is_junk(name):
            continue
        try:
            safe_join(Path(), name)
        except DataError as error:
            raise DataError(f"{uri} is not unpacked: {error}") from None
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            what = "a link" if kind == stat.S_IFLNK else "no plain file"
            raise DataError(f"{uri} holds {name!r}, which is {what}: pack the files themselves")
        if entry.flag_bits & 1:
            raise DataError(f"{uri} is encrypted ({name!r}): pack it without a password")
        if name in seen:
            raise DataError(f"{uri} holds two files called {name!r}: pack it again")
        seen.add(name)
        yield name, entry


def _name(entry: zipfile.ZipInfo) -> str:
    """Return the name of a file; tools write UTF-8 without declaring it, and backslashes on Windows."""
    name = entry.orig_filename
    if not entry.flag_bits & 0x800:
        with suppress(UnicodeEncodeError, UnicodeDecodeError):  # else the declared encoding is right
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")


def _time(entry: zipfile.ZipInfo) -> int:
    """Return the modification time of a file in seconds, the same on every machine for the same archive."""
    try:
        return max(_EARLIEST, calendar.timegm((*entry.date_time, 0, 0, 0)))
    except (ValueError, OverflowError):
        return _EARLIEST


def _check_directory(uri: str, file: BinaryIO) -> None:
    """Check that the list of files fits into memory.

    Raises:
        DataError: It is too long.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - (1 << 16) - 100))
    tail = file.read()
    file.seek(0)
    end, end64 = tail.rfind(b"PK\5\6"), tail.rfind(b"PK\6\6")
    length = struct.unpack_from("<L", tail, end + 12)[0] if 0 <= end <= len(tail) - 16 else 0
    if length == 0xFFFFFFFF and 0 <= end64 <= len(tail) - 48:
        length = struct.unpack_from("<Q", tail, end64 + 40)[0]
    if length > LARGEST_DIRECTORY:
        raise DataError(f"{uri} holds too many files ({length:,} bytes of names): unpack it, and give the folder")


def _check_room(uri: str, wanted: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if wanted + SPARE > free:
        raise MachineError(
            f"{uri} needs {wanted:,} bytes and the disk of {folder.parent} has {free:,} free: free some, or set "
            "TEACHER_CACHE to a folder on a larger disk"
        )


def _put(temporary: Path, folder: Path) -> None:
    """Move a folder to its final place. If another process was faster with the same content, its folder stays."""
    if folder.exists() and not _is_whole(folder):
        shutil.rmtree(folder)
    try:
        temporary.rename(folder)
    except OSError:
        if not _is_whole(folder):
            raise


def _is_whole(folder: Path) -> bool:
    """Test whether all files are unchanged since they were unpacked."""
    try:
        index = json.loads((folder / _INDEX).read_bytes())
        for key, (size, time) in index.items():
            status = safe_join(folder / _FILES, key).stat()
            if (status.st_size, status.st_mtime_ns) != (size, time):
                return False
    except (OSError, ValueError, TypeError, AttributeError, DataError):
        return False
    return True


@contextmanager
def _failures(uri: str) -> Iterator[None]:
    """Convert errors of an archive to messages for users."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error, UnicodeDecodeError) as error:
        raise DataError(f"{uri} is not a complete zip file ({error}): pack or upload it again") from None
    except (NotImplementedError, RuntimeError) as error:
        raise DataError(f"{uri} cannot be unpacked: {error}. Pack it again, with deflate, or give the folder") from None
    except (NotADirectoryError, IsADirectoryError, FileExistsError) as error:
        raise DataError(f"{uri} holds a file and a folder of one name ({error.filename}): pack it again") from None

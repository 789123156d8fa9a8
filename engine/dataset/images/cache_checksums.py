"""Verify cached images with the checksums that were written when they were downloaded.

A disk may change a byte without an error, and a damaged JPEG often decodes to wrong pixels. Therefore each cache folder
has a list of CRC-32, size and modification time. At the start of a run, a copy with the same size and time counts as
intact; its CRC-32 is compared on every read.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import zlib
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from engine.errors import StorageError

LOG = logging.getLogger(__name__)

SUMS = ".checksums"
"""File name of the list: one line per file, the last line of a file is valid."""

LINE = re.compile(r"([\w.]+) ([0-9a-f]{8}) ([0-9]{1,18}) ([0-9]{1,20})")


@dataclass(frozen=True)
class Sum:
    """State of a copy when it was written: CRC-32 in hex, bytes, and modification time in nanoseconds."""

    crc32: str
    size: int
    modified_ns: int


def record(path: Path) -> None:
    """Record the checksum of a copy; a copy without a record is fetched again next time."""
    with suppress(OSError):
        status = path.stat()
        line = f"{path.name} {_crc32(path)} {status.st_size} {status.st_mtime_ns}\n"
        with (path.parent / SUMS).open("a", encoding="ascii") as file:
            file.write(line)


def is_whole(path: Path, *, size: int, etag: str, known: Sum | None) -> bool:
    """Test whether a copy is unchanged since it was downloaded.

    Args:
        path: Path of the copy.
        size: Bytes of the original object.
        etag: ETag of the object; if it is an MD5, it verifies copies without a record.
        known: Record of the copy, from :func:`sums_of`.
    """
    try:
        status = path.stat()
        if known is None:
            return status.st_size == size and _is_md5(path, etag) and _kept(path)
        if status.st_size != known.size or status.st_size != size:
            return False
        if status.st_mtime_ns == known.modified_ns:
            return True
        return _crc32(path) == known.crc32 and _kept(path)
    except OSError:
        return False


def checked(path: Path) -> Path | bytes:
    """Return the verified content of a copy with a checksum; else the path.

    Raises:
        StorageError: The copy is damaged. It is removed, so that the next run fetches it.
    """
    known = _sums_once(path.parent).get(path.name)
    if known is None:
        return path
    try:
        content = path.read_bytes()
    except OSError:  # reported when the file is opened
        return path
    if f"{zlib.crc32(content):08x}" == known.crc32:
        return content
    with suppress(OSError):
        path.unlink()
    raise StorageError(
        f"the cached copy {path} of an image was damaged after its download (CRC-32 differs) and was removed: run "
        "the same command again, which fetches it again; if it happens often, check the disk"
    )


def sums_of(folder: Path) -> dict[str, Sum]:
    """Return the records of the copies in a folder, by name."""
    try:
        text = (folder / SUMS).read_text(encoding="ascii", errors="replace")
    except OSError:
        return {}
    found = (LINE.fullmatch(line) for line in text.splitlines())
    return {one[1]: Sum(one[2], int(one[3]), int(one[4])) for one in found if one}


@cache
def _sums_once(folder: Path) -> dict[str, Sum]:
    """Return the records at the first call; later records were written by this run."""
    return sums_of(folder)


def _kept(path: Path) -> bool:
    record(path)
    return True


def _is_md5(path: Path, etag: str) -> bool:
    plain = etag.strip('"')
    if not re.fullmatch(r"[0-9a-f]{32}", plain):
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == plain


def _crc32(path: Path) -> str:
    value = 0
    with path.open("rb", buffering=0) as file:
        while piece := os.read(file.fileno(), 1 << 20):
            value = zlib.crc32(piece, value)
    return f"{value:08x}"

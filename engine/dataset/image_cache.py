"""Copies of images on this machine, compared with the checksums that were written when they came.

A disk may change a byte without an error, and a damaged JPEG often decodes to other pixels. So each folder of copies
has a list of CRC-32, size and time of change. A copy whose size and time are the same is taken for whole when a run
begins; its CRC-32 is compared whenever it is read.
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
"""The list of a folder: a line for each file, the last one counts."""

LINE = re.compile(r"([\w.]+) ([0-9a-f]{8}) ([0-9]{1,18}) ([0-9]{1,20})")


@dataclass(frozen=True)
class Sum:
    """What a copy was when it was written: CRC-32 in hex, bytes, and the time of its last change in nanoseconds."""

    crc32: str
    size: int
    modified_ns: int


def record(path: Path) -> None:
    """Write down what a copy is; one that cannot be written down is fetched again next time."""
    with suppress(OSError):
        status = path.stat()
        line = f"{path.name} {_crc32(path)} {status.st_size} {status.st_mtime_ns}\n"
        with (path.parent / SUMS).open("a", encoding="ascii") as file:
            file.write(line)


def is_whole(path: Path, *, size: int, etag: str, known: Sum | None) -> bool:
    """Test whether a copy is what it was when it came.

    Args:
        path: Of the copy.
        size: Bytes of the object that it is of.
        etag: Of the object; proves copies of earlier versions where it is an MD5.
        known: What was written down, by :func:`sums_of`.
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
    """Return the content of a copy that is known, compared with its checksum; else the path.

    Raises:
        StorageError: It is damaged. It is removed then, so that the next run fetches it.
    """
    known = _sums_once(path.parent).get(path.name)
    if known is None:
        return path
    try:
        content = path.read_bytes()
    except OSError:  # whoever opens it reports that
        return path
    if f"{zlib.crc32(content):08x}" == known.crc32:
        return content
    with suppress(OSError):
        path.unlink()
    raise StorageError(
        f"the cached copy {path} of an image was damaged since it came (its CRC-32 differs), and has been removed: run "
        "the same command again, which fetches it again; if it happens often, look at the disk"
    )


def sums_of(folder: Path) -> dict[str, Sum]:
    """Return what is written down of the copies in a folder, by name."""
    try:
        text = (folder / SUMS).read_text(encoding="ascii", errors="replace")
    except OSError:
        return {}
    found = (LINE.fullmatch(line) for line in text.splitlines())
    return {one[1]: Sum(one[2], int(one[3]), int(one[4])) for one in found if one}


@cache
def _sums_once(folder: Path) -> dict[str, Sum]:
    """The same as it was when it was first asked for: what came since was written by this run."""
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

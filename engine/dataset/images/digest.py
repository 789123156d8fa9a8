"""Fingerprint of the images of a dataset: the same annotations with other image bytes are different data.

For an object in S3 it uses ETag and size from the listing; for a file on disk, MD5 and size. Most stores use the MD5 as
the ETag of objects uploaded in one part, so equal bytes have the same fingerprint on a disk, on another machine and in
such a store. Each file is read once; after that its digest is cached by its size, times and inode.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import closing
from pathlib import Path

from engine.errors import StorageError
from engine.storage import Storage
from engine.storage.transfer import each_done

THREADS = 8
"""Files that are read at a time."""

SETTLED_NS = 2 * 10**9
"""A file modified within this time before it was read may change again within one tick of the disk's clock."""

UNREADABLE = "unreadable"

Stamp = tuple[int, int, int, int]
"""Size, mtime, ctime (both in nanoseconds), inode."""

Known = dict[str, tuple[Stamp, str]]
"""Stamp and MD5 of each file when it was read, by key."""


def fingerprint(marks: Iterable[str]) -> str:
    """Return the sha256, in hex, of the marks of all listed images, in the order of the annotation file."""
    digest = hashlib.sha256()
    for mark in marks:
        digest.update(f"{mark}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def together(digests: Collection[str]) -> str:
    """Combine the digests of splits: the only one, or the sha256 of all."""
    first, *others = digests
    return hashlib.sha256("".join([first, *others]).encode()).hexdigest() if others else first


def mark_of(etag: str, size: int) -> str:
    """Return the mark of an image, without the quotes around its ETag."""
    return f"{etag.strip(chr(34))} {size}"


def local_marks(folder: Path, keys: Iterable[str], *, cache: Path) -> Mapping[str, str]:
    """Return the marks of the files in a folder, by key; files with a cached digest are not read if unchanged.

    Args:
        folder: Folder on disk.
        keys: Paths below it.
        cache: Folder that keeps digests between runs. A damaged entry is ignored.
    """
    file = cache / "digests" / f"{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]}.txt"
    known = _load(file)

    def read(key: str) -> tuple[str, Stamp | None, str]:
        try:
            return key, *_digest(folder / key, known.get(key))
        except OSError:  # reported by validation and training
            return key, None, UNREADABLE

    marks: dict[str, str] = {}
    fresh: Known = {}
    try:
        with closing(each_done(read, dict.fromkeys(keys), threads=THREADS)) as done:
            for key, stamp, digest in done:
                marks[key] = mark_of(digest, 0 if stamp is None else stamp[0])
                if stamp is not None and time.time_ns() - max(stamp[1], stamp[2]) > SETTLED_NS:
                    fresh[key] = stamp, digest
    finally:
        if any(known.get(key) != entry for key, entry in fresh.items()):
            _save(file, known | fresh)
    return marks


def _digest(path: Path, before: tuple[Stamp, str] | None) -> tuple[Stamp, str]:
    stamp = _stamp(path)
    if before is not None and before[0] == stamp:
        return before
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return stamp, digest


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _load(file: Path) -> Known:
    """Load the cached digests: none if the file is missing, incomplete or damaged."""
    try:
        seal, _, body = file.read_bytes().partition(b"\n")
    except OSError:
        return {}
    try:
        if hashlib.sha256(body).hexdigest().encode() != seal:
            raise ValueError("its sha256 differs")
        lines = (json.loads(line) for line in body.splitlines())
        return {
            key: ((size, changed, inode_changed, inode), md5) for key, size, changed, inode_changed, inode, md5 in lines
        }
    except (ValueError, TypeError, RecursionError) as error:
        logging.getLogger(__name__).warning("%s is damaged (%s): images are read again", file, error)
        return {}


def _save(file: Path, known: Known) -> None:
    body = b"".join(json.dumps([key, *stamp, md5]).encode() + b"\n" for key, (stamp, md5) in sorted(known.items()))
    try:
        Storage().write_bytes(str(file), hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    except StorageError:  # an unwritable cache only costs time
        return

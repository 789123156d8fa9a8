"""URIs of objects and folders: ``s3://bucket/key``, ``file:///path`` or a plain path.

Only ``file://`` is percent-encoded, as everywhere: keys of S3 and plain paths are taken as they are written.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from engine.errors import DataError

S3 = "s3://"
FILE = "file://"
DRIVE = re.compile(r"[A-Za-z]:")


def is_remote(uri: str) -> bool:
    """Whether the URI names an object or folder in S3, which must be downloaded to be used as a file."""
    return uri.startswith(S3)


def join(uri: str, *parts: str) -> str:
    """Append path parts, as a listing or a file system spells them.

    ``join("s3://b/a/", "c", "d.json") == "s3://b/a/c/d.json"``; ``join("file:///a", "5%") == "file:///a/5%25"``.
    Slashes in a row are part of a key in S3 and kept: ``join("s3://b/a", "/c") == "s3://b/a//c"``.
    """
    if is_remote(uri):
        return "/".join([uri.removesuffix("/"), *parts])
    if uri.startswith(FILE):
        parts = tuple(part.replace("%", "%25") for part in parts)
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def name(uri: str) -> str:
    """The last part of a URI, as a file system spells it."""
    last = uri.rstrip("/").rpartition("/")[2]
    return unquote(last) if uri.startswith(FILE) else last


def parent(uri: str) -> str:
    """The folder of a URI: ``parent("s3://b/a/c.json") == "s3://b/a"``; of a bare file name, ``"."``."""
    head, slash, _ = uri.rstrip("/").rpartition("/")
    if not slash:
        return "."
    return head or "/"


def local_path(uri: str) -> Path:
    """The path that a ``file://`` URI or a plain path names."""
    if not uri.startswith(FILE):
        return Path(uri)
    path = uri.removeprefix(FILE)
    return Path(unquote(path.removeprefix("localhost") if path.startswith("localhost/") else path))


def safe_join(folder: Path, key: str) -> Path:
    """The path of ``key`` below ``folder``; backslashes part folders too.

    Raises:
        DataError: The key names no file, is absolute, leads out of the folder, or no file can be called so.
    """
    parts = PurePosixPath(key.replace("\\", "/"))
    if not parts.parts:
        raise DataError(f"{key!r} names no file")
    if parts.is_absolute() or ".." in parts.parts or DRIVE.fullmatch(parts.parts[0]):
        raise DataError(f"{key!r} leads out of its folder: names must be relative, without '..'")
    try:
        encodable = b"\0" not in os.fsencode(key)
    except UnicodeEncodeError:
        encodable = False
    if not encodable:
        raise DataError(f"no file can be called {key!r}: it holds characters that file names cannot have")
    return folder.joinpath(*parts.parts)

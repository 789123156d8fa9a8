"""URIs of objects and folders: ``s3://bucket/key``, ``file:///path`` or a plain path."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from engine.errors import DataError

S3 = "s3://"
FILE = "file://"


def is_remote(uri: str) -> bool:
    """Whether the URI names an object or folder in S3, which must be downloaded to be used as a file."""
    return uri.startswith(S3)


def join(uri: str, *parts: str) -> str:
    """Append path parts: ``join("s3://b/a/", "c", "d.json") == "s3://b/a/c/d.json"``."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def name(uri: str) -> str:
    """The last part of a URI."""
    return uri.rstrip("/").rpartition("/")[2]


def parent(uri: str) -> str:
    """The folder of a URI: ``parent("s3://b/a/c.json") == "s3://b/a"``; of a bare file name, ``"."``."""
    head, slash, _ = uri.rstrip("/").rpartition("/")
    if not slash:
        return "."
    return head or "/"


def local_path(uri: str) -> Path:
    """The path that a ``file://`` URI or a plain path names."""
    return Path(unquote(uri.removeprefix(FILE))) if uri.startswith(FILE) else Path(uri)


def safe_join(folder: Path, key: str) -> Path:
    """The path of ``key`` below ``folder``.

    Raises:
        DataError: The key is absolute or leads out of the folder.
    """
    parts = PurePosixPath(key.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or "\0" in key or (parts.parts and ":" in parts.parts[0][1:2]):
        raise DataError(f"{key!r} leads out of its folder: names must be relative, without '..'")
    return folder.joinpath(*parts.parts)

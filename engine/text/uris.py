"""URIs of objects and folders: ``s3://``, ``gs://`` and ``az://bucket/key``, ``pvc://claim/path``, ``file:///path``.

Only ``file://`` is percent-encoded, as usual: keys, paths on claims and plain paths are used unchanged.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from engine.errors import ConfigError, DataError

S3 = "s3://"
GS = "gs://"
AZ = "az://"
REMOTE = (S3, GS, AZ)
FILE = "file://"
CLAIM = "pvc://"
CLAIMS = "TEACHER_CLAIMS"
"""Variable with the folder, on this machine or in the pod, below which each claim is mounted under its name."""
CLAIM_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LONGEST_CLAIM_NAME = 253
DRIVE = re.compile(r"[A-Za-z]:")


def is_remote(uri: str) -> bool:
    """Return True for an object or folder in a bucket, which must be downloaded for use as a file."""
    return uri.startswith(REMOTE)


def join(uri: str, *parts: str) -> str:
    """Append path parts, given as in a listing or a file system.

    ``join("s3://b/a/", "c", "d.json") == "s3://b/a/c/d.json"``; ``join("file:///a", "5%") == "file:///a/5%25"``.
    Slashes in a row are part of a key in a bucket and kept: ``join("s3://b/a", "/c") == "s3://b/a//c"``.
    """
    if is_remote(uri):
        return "/".join([uri.removesuffix("/"), *parts])
    if uri.startswith(FILE):
        parts = tuple(part.replace("%", "%25") for part in parts)
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def name(uri: str) -> str:
    """Return the last part of a URI, as in a file system."""
    last = uri.rstrip("/").rpartition("/")[2]
    return unquote(last) if uri.startswith(FILE) else last


def parent(uri: str) -> str:
    """Return the folder of a URI: ``parent("s3://b/a/c.json") == "s3://b/a"``; ``"."`` for a bare file name."""
    head, slash, _ = uri.rstrip("/").rpartition("/")
    if not slash:
        return "."
    return head or "/"


def local_path(uri: str) -> Path:
    """Return the path of a ``file://`` URI, a ``pvc://`` URI or a plain path.

    Raises:
        ConfigError: The claim is not mounted here, or the path points outside it.
    """
    if is_claim(uri):
        return _path_on_claim(uri)
    if not uri.startswith(FILE):
        return Path(uri)
    path = uri.removeprefix(FILE)
    return Path(unquote(path.removeprefix("localhost") if path.startswith("localhost/") else path))


def is_claim(uri: str) -> bool:
    """Return True for a file or folder on a PersistentVolumeClaim."""
    return uri.startswith(CLAIM)


def split_claim(uri: str) -> tuple[str, str]:
    """Split a URI into the claim's name and the path on the claim.

    >>> split_claim("pvc://forklifts/export/annotations.json")
    ('forklifts', 'export/annotations.json')

    Raises:
        ConfigError: The name is invalid, or the path points outside the claim.
    """
    claim, _, path = uri.removeprefix(CLAIM).partition("/")
    if not CLAIM_NAME.fullmatch(claim) or len(claim) > LONGEST_CLAIM_NAME:
        raise ConfigError(f"{uri!r} names no claim: write pvc://claim/path, such as pvc://forklifts/annotations.json")
    if ".." in path.split("/"):
        raise ConfigError(f"{uri!r} leads out of its claim: write the path without '..'")
    return claim, path


def _path_on_claim(uri: str) -> Path:
    claim, path = split_claim(uri)
    root = os.environ.get(CLAIMS)
    if not root:
        raise ConfigError(
            f"{uri} is on a PersistentVolumeClaim of a cluster, which the pods of a run mount and this machine does "
            f"not: mount its disk here and give the path, or set {CLAIMS} to the folder that has it as {claim}; "
            "`kubectl cp` copies from a pod that mounts it"
        )
    folder = Path(root, claim)
    if not folder.is_dir():
        raise ConfigError(f"{uri}: claim {claim} is not mounted here: folder {folder} does not exist")
    found = folder.joinpath(*(part for part in path.split("/") if part))
    if not found.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"{uri} is, or lies below, a link that leads out of claim {claim}: name the file itself")
    return found


def safe_join(folder: Path, key: str) -> Path:
    """Return the path of ``key`` below ``folder``; backslashes separate folders too.

    Raises:
        DataError: The key names no file, is absolute, points outside the folder, or is not a valid file name.
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

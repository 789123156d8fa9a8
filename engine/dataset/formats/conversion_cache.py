"""Cache of converted datasets: a run reads its data several times, and each image size costs a request."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from hashlib import file_digest
from pathlib import Path
from tempfile import mkdtemp

from engine.dataset.formats.source_files import Source
from engine.errors import StorageError
from engine.storage import default_cache
from engine.storage.files import failures, reason

VERSION = 1
"""Version of the converters' output; a cache entry of another version is ignored."""

_INDEX = "index.json"

Convert = Callable[[Source, Path], list[str]]
"""Writes ``<split>.json`` for each split into a folder and returns the names of the splits."""


def kept_or_converted(source: Source, kind: str, convert: Convert) -> dict[str, Path]:
    """Return the COCO file of each split, from the cache if the same files were converted before.

    Cached files are compared with their digest: a damaged file is converted again.

    Raises:
        DataError: The files are not a dataset.
        StorageError: Something cannot be read, or the cache cannot be written.
    """
    folder = default_cache() / "converted" / _key(source, kind)
    found = _kept(folder)
    if found is not None:
        return found
    with failures(str(folder), "written"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(mkdtemp(prefix=".converting-", dir=folder.parent))
    try:
        digests = {split: _digest(temporary / f"{split}.json") for split in convert(source, temporary)}
        (temporary / _INDEX).write_text(json.dumps(digests), encoding="utf-8")
        _put(temporary, folder)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {reason(error, str(folder))}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return {split: folder / f"{split}.json" for split in digests}


def _put(temporary: Path, folder: Path) -> None:
    """Move files to their final place; another process may do so at the same time, with the same content."""
    folder.mkdir(exist_ok=True)
    for path in sorted(temporary.iterdir(), key=lambda path: path.name == _INDEX):
        path.replace(folder / path.name)


def _kept(folder: Path) -> dict[str, Path] | None:
    try:
        digests = json.loads((folder / _INDEX).read_bytes())
        files = {str(split): folder / f"{split}.json" for split in digests}
        whole = all(_digest(path) == digests[split] for split, path in files.items())
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return files if whole and files else None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _key(source: Source, kind: str) -> str:
    """Return a cache key that changes with any file that a conversion may read."""
    listings = (source.root, source.files.digest, source.images, source.image_files.digest)
    fields = (str(VERSION), kind, source.uri, source.chosen, *listings)
    return hashlib.sha256("\0".join(fields).encode(errors="surrogateescape")).hexdigest()[:32]

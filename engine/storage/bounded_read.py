"""Small files of others: read up to a bound, so that a wrong path or a planted file does not fill the memory."""

from __future__ import annotations

from engine.errors import StorageError, TeacherError
from engine.storage import Storage

MANIFEST_BYTES = 4 << 20
"""Bytes of a manifest or a configuration."""

JSON_BYTES = 256 << 20
"""Bytes of what a run publishes as JSON: results of thousands of classes have a tenth of it."""


def read_bounded(storage: Storage, uri: str, *, limit: int, error: type[TeacherError] = StorageError) -> bytes:
    """Return the content of an object of at most ``limit`` bytes.

    Raises:
        StorageError: Storage refuses, or there is no such object.
        TeacherError: It is larger; of the kind ``error``.
    """
    with storage.open(uri) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise error(f"{uri} has more than {limit:,} bytes, which no such file has: is it another file?")
    return content

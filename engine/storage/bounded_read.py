"""Reads small untrusted files up to a size limit, so that a wrong or malicious file cannot fill the memory."""

from __future__ import annotations

from engine.errors import ConfigError, StorageError, TeacherError
from engine.storage import NotFoundError, Storage, missing

MANIFEST_BYTES = 4 << 20
"""Maximum bytes of a manifest or a configuration."""

JSON_BYTES = 256 << 20
"""Maximum bytes of a JSON file of a run: results of thousands of classes have a tenth of it."""


def read_bounded(storage: Storage, uri: str, *, limit: int, error: type[TeacherError] = StorageError) -> bytes:
    """Return the content of an object of at most ``limit`` bytes.

    Raises:
        StorageError: The object cannot be read or does not exist.
        ConfigError: It is a local file of the user's configuration (``error`` is ConfigError) and does not exist.
        TeacherError: The object is larger; the class is ``error``.
    """
    try:
        with storage.open(uri) as file:
            content = file.read(limit + 1)
    except NotFoundError as absent:
        raise (missing(uri, str(absent)) if error is ConfigError else absent) from None
    if len(content) > limit:
        raise error(f"{uri} has more than {limit:,} bytes, which no such file has: is it another file?")
    return content

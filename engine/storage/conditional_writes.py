"""Tests whether a store honours conditional writes: some stores ignore the condition, others refuse it."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from engine.errors import StorageError
from engine.storage.base import ExistsError, UnsupportedError
from engine.text.uris import join

if TYPE_CHECKING:
    from engine.storage.base import Backend

FOLDER = ".teacher"
"""Folder for the test objects, below the folder that is tested; the objects are deleted."""


def honours_conditions(folder: str, backend: Backend) -> bool:
    """Write an object twice on condition that it is absent, then delete it.

    Returns:
        True if the store accepted the first write and refused the second.

    Raises:
        StorageError: The store cannot be written to; or it neither honours the condition nor lists new objects
            immediately, so that attempts at one run cannot be kept apart.
    """
    place = join(folder, FOLDER)
    uri = join(place, f"trial-{uuid.uuid4().hex}")
    try:
        honoured = _written_once(uri, backend)
        if not honoured:
            _check_listed(uri, place, backend)
    finally:
        backend.delete(uri)
    return honoured


def _written_once(uri: str, backend: Backend) -> bool:
    first, second = b"first", b"second"
    try:
        backend.write(uri, first, content_type=None, only_if_absent=True)
    except UnsupportedError:
        return False
    except ExistsError:  # the name is new: the answer to an earlier request was lost, or it is wrong
        if backend.head(uri) is None:
            return False
    try:
        backend.write(uri, second, content_type=None, only_if_absent=True)
    except ExistsError:
        return backend.read(uri) == first
    except UnsupportedError:
        return False
    return False


def _check_listed(uri: str, place: str, backend: Backend) -> None:
    """Raise StorageError if new objects are not listed immediately: attempts could not agree by an election."""
    for content in (b"third", b"fourth"):
        backend.write(uri, content, content_type=None, only_if_absent=False)
        if backend.read(uri) != content or uri not in {item.uri for item in backend.list(place)}:
            raise StorageError(
                f"{place}: this store honours no conditional writes (If-None-Match) and does not read or list "
                "immediately what was written, so that two attempts at one run could publish a mixture: give another "
                "store as output, or update this one"
            )

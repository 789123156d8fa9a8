"""The pages of a listing, put together with the rules that stores break: whole, each key once, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, pairwise
from typing import Any

from engine.errors import StorageError

Page = list[Any]
"""Objects of a page as botocore gives them: ``Key``, ``Size``, ``ETag``, ``LastModified``."""


def pages(ask: Callable[[str | None], Any], folder: str) -> Iterator[Page]:
    """All pages. botocore's paginator would take the first for all where a store forgets to say how to continue.

    Args:
        ask: Answers ListObjectsV2, from the beginning or from a token on.
        folder: What is listed, for messages.

    Raises:
        StorageError: The store says that there is more and not how to get it, or gives the same page again; or what
            answers is not an object store.
    """
    token: str | None = None
    asked: set[str] = set()
    while True:
        answer = ask(token)
        items = answer.get("Contents", [])
        if not answer.get("Name") and not items:  # an empty folder has its bucket's name
            raise StorageError(f"{folder} cannot be listed: what answered is not an object store, but perhaps a proxy")
        yield items
        token = answer.get("NextContinuationToken")
        if not answer.get("IsTruncated", bool(token)):
            return
        if not token or token in asked:
            fault = "without saying how to get it" if not token else "and gives the same page again"
            raise StorageError(
                f"{folder} cannot be listed: the store says that there is more after {len(items):,} objects {fault} "
                "(IsTruncated, NextContinuationToken): it does not keep to ListObjectsV2; update it, or copy the "
                "data to another store"
            )
        asked.add(token)


def in_order(found: Iterable[Page], folder: str, *, whole: bool = False) -> Iterator[Any]:
    """The objects of all pages by the bytes of their keys. A store whose first page is not in order is read whole.

    Some stores list an object twice that is written meanwhile: once is enough.

    Args:
        found: The pages.
        folder: What is listed, for messages.
        whole: Read all pages before the first object is given: the store is known to list in no order.

    Raises:
        StorageError: A later page goes back, or has nothing new: what was given so far cannot be taken back.
    """
    last, remaining = b"", iter(found)
    for number, page in enumerate(remaining):
        keys = [_bytes(item["Key"]) for item in page]
        ordered = all(before <= key for before, key in pairwise([last, *keys]))
        if whole or (not ordered and number == 0):
            yield from _sorted(chain([page], remaining), folder)
            return
        if not ordered or (keys and keys[-1] == last):
            raise _disorder(folder)
        for before, key, item in zip([last, *keys], keys, page, strict=False):
            if key != before:
                yield item
        last = keys[-1] if keys else last


def _sorted(found: Iterable[Page], folder: str) -> list[Any]:
    items: dict[bytes, Any] = {}
    for page in found:
        before = len(items)
        items |= {_bytes(item["Key"]): item for item in page}
        if page and len(items) == before:  # such a listing may have no end
            raise _disorder(folder)
    return [items[key] for key in sorted(items)]


def _bytes(key: str) -> bytes:
    return key.encode(errors="surrogateescape")


def _disorder(folder: str) -> StorageError:
    return StorageError(
        f"{folder} cannot be listed: the store lists keys twice or out of order (directory buckets do), so that "
        "nobody can tell whether all are there; copy the data to another bucket or store"
    )

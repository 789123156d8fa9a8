"""Pages of a listing, checked for rules that some stores break: complete, each key once, sorted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, pairwise
from typing import Any

from engine.errors import StorageError

Page = list[Any]
"""Objects of a page as in botocore: ``Key``, ``Size``, ``ETag``, ``LastModified``."""


def pages(ask: Callable[[str | None], Any], folder: str) -> Iterator[Page]:
    """Yield all pages. botocore's paginator would stop silently if a store omits the continuation token.

    Args:
        ask: Sends ListObjectsV2, without or with a continuation token.
        folder: URI of the folder, for messages.

    Raises:
        StorageError: The listing continues without a token, or repeats a page; or the answer is not from an object
            store.
    """
    token: str | None = None
    asked: set[str] = set()
    while True:
        answer = ask(token)
        items = answer.get("Contents", [])
        if not answer.get("Name") and not items:  # the answer for an empty folder contains the bucket's name
            raise StorageError(
                f"{folder} cannot be listed: the answer is not from an object store, but perhaps from a proxy"
            )
        yield items
        token = answer.get("NextContinuationToken")
        if not answer.get("IsTruncated", bool(token)):
            return
        if not token or token in asked:
            fault = "without saying how to get it" if not token else "and gives the same page again"
            raise StorageError(
                f"{folder} cannot be listed: the store says that there is more after {len(items):,} objects {fault} "
                "(IsTruncated, NextContinuationToken): it violates ListObjectsV2; update it, or copy the "
                "data to another store"
            )
        asked.add(token)


def in_order(found: Iterable[Page], folder: str, *, whole: bool = False) -> Iterator[Any]:
    """Yield the objects of all pages, sorted by the bytes of their keys. If page 1 is unsorted, all are read first.

    Some stores list an object twice if it is written during the listing: duplicates are dropped.

    Args:
        found: The pages.
        folder: URI of the folder, for messages.
        whole: Read all pages before the first object is yielded: the store does not sort its listings.

    Raises:
        StorageError: A later page is out of order or has no new keys: earlier objects were yielded already.
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
        if page and len(items) == before:  # otherwise the listing may never end
            raise _disorder(folder)
    return [items[key] for key in sorted(items)]


def _bytes(key: str) -> bytes:
    return key.encode(errors="surrogateescape")


def _disorder(folder: str) -> StorageError:
    return StorageError(
        f"{folder} cannot be listed: the store lists keys twice or out of order (directory buckets do), so that "
        "missing objects cannot be detected; copy the data to another bucket or store"
    )

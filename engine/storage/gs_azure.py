"""``gs://`` and ``az://`` through obstore: Google Cloud Storage and Azure Blob Storage, each with its own identities.

obstore retries temporary failures, and continues a broken download at the same byte if the object is unchanged.
"""

from __future__ import annotations

import io
import mimetypes
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from engine.errors import ConfigError
from engine.storage.base import BrokenError, ChangedError, NotFoundError, ObjectInfo
from engine.storage.bucket_uris import prefix_of, split_object
from engine.storage.files import replacing
from engine.storage.options import StorageOptions
from engine.storage.s3_listing import in_order
from engine.storage.s3_stream import READ_SIZE
from engine.text.uris import AZ

if TYPE_CHECKING:
    from obstore import GetResult, ObjectMeta
    from obstore.store import AzureStore, GCSStore

ATTEMPTS = 8
"""Attempts at a request whose connection breaks and that obstore does not retry."""

PAGE = 1000
"""Objects of a listing held in memory at a time."""


class CloudBackend:
    """Buckets of Google Cloud Storage, or containers of one Azure storage account.

    Args:
        scheme: ``gs://`` or ``az://``.
        options: How the store is reached.
        say: Receives a message while credentials are awaited.
    """

    def __init__(self, scheme: str, options: StorageOptions, say: Callable[[str], None]) -> None:
        self.scheme, self.options, self.say = scheme, options, say
        self._stores: dict[str, GCSStore | AzureStore] = {}
        self._lock = threading.Lock()

    @contextmanager
    def store_of(self, uri: str, done: str) -> Iterator[GCSStore | AzureStore]:
        """Yield the client of a bucket; failures in the block become StorageErrors: "``uri`` cannot be ``done``"."""
        from engine.storage.gs_azure_errors import failures  # imports obstore
        from engine.storage.gs_azure_stores import connect

        bucket, _ = prefix_of(uri)
        with failures(uri, done):
            with self._lock:
                if bucket not in self._stores:
                    self._stores[bucket] = connect(self.scheme, bucket, self.options, self.say)
            yield self._stores[bucket]

    def _until_answered(self, work: Callable[[], None]) -> None:
        """Retry ``work`` a few times while its connection breaks.

        obstore does not repeat a request that may have a second effect, such as the start of a multipart upload or a
        conditional write. Here a repetition is safe: uploads become visible when complete, and writers compare content.
        """
        for attempt in range(1, ATTEMPTS):
            try:
                return work()
            except BrokenError as error:
                from engine.storage.retries import pause  # imports botocore

                self.say(f"{error}: attempt {attempt + 1} of {ATTEMPTS}")
                time.sleep(pause(attempt))
        return work()

    def head(self, uri: str) -> ObjectInfo | None:
        """Return the metadata of the object at ``uri``, or None."""
        import obstore

        _, prefix = prefix_of(uri)
        if not prefix or uri.endswith("/"):
            return None
        try:
            with self.store_of(uri, "accessed") as store:
                found = obstore.head(store, _key(uri))
        except NotFoundError:
            return None
        return _info(uri, uri.rpartition("/")[2], found)

    def read(self, uri: str) -> bytes:
        """Return the content of the object."""
        with self.store_of(uri, "read") as store:
            return bytes(_get(store, uri).bytes())

    def open(self, uri: str) -> BinaryIO:
        """Read the object as a stream."""
        with self.store_of(uri, "read") as store:
            result = _get(store, uri)
        return io.BufferedReader(_Body(result, uri), buffer_size=READ_SIZE)

    def write(self, uri: str, data: bytes, *, content_type: str | None, only_if_absent: bool) -> None:
        """Write an object atomically."""
        import obstore

        mode: Any = "create" if only_if_absent else "overwrite"
        attributes = _attributes(content_type)

        def put() -> None:
            with self.store_of(uri, "written") as store:
                obstore.put(store, _key(uri), data, mode=mode, attributes=attributes, use_multipart=False)

        self._until_answered(put)

    def list(self, folder: str) -> Iterator[ObjectInfo]:
        """Yield all objects below a folder, sorted by key."""
        import obstore

        bucket, prefix = prefix_of(folder)

        def pages() -> Iterator[list[Any]]:
            with self.store_of(folder, "listed") as store:
                for page in obstore.list(store, _checked(folder, prefix.rstrip("/")) or None, chunk_size=PAGE):
                    yield [{**item, "Key": item["path"]} for item in page]

        # Accounts with a hierarchical namespace list a folder before the names that sort before its slash.
        for item in _without_markers(in_order(pages(), folder, whole=self.scheme == AZ)):
            if item["Key"].startswith(prefix):
                yield _info(f"{self.scheme}{bucket}/{item['Key']}", item["Key"].removeprefix(prefix), item)

    def download(self, uri: str, path: Path, etag: str | None = None) -> None:
        """Copy an object to a path, with its modification time."""
        with self.store_of(uri, "read") as store, replacing(path) as temporary:
            result = _get(store, uri)
            if etag and _bare(result.meta["e_tag"]) != _bare(etag):
                raise ChangedError(
                    f"{uri} has changed since it was listed: start again, so that all data has the same state"
                )
            with temporary.open("wb") as file:
                for chunk in result.stream(READ_SIZE):
                    file.write(chunk)
            modified = _nanoseconds(result.meta["last_modified"])
            os.utime(temporary, ns=(modified, modified))

    def upload(self, path: Path, uri: str) -> None:
        """Copy a file to an object; large files in parallel parts."""
        import obstore

        content_type, _ = mimetypes.guess_type(_key(uri))

        def put() -> None:
            with self.store_of(uri, "written") as store:
                path.stat()  # errors of obstore do not contain the file name
                obstore.put(store, _key(uri), path, attributes=_attributes(content_type))

        self._until_answered(put)

    def copy(self, source: str, target: str) -> None:
        """Copy an object within the same kind of store.

        Google copies atomically. Azure may show an incomplete copy, so the content is downloaded and uploaded.
        """
        import obstore

        (bucket, _), (to, _) = split_object(source), split_object(target)
        with self.store_of(source, f"copied to {target}") as store:
            if bucket == to and self.scheme != AZ:
                obstore.copy(store, _key(source), _key(target))
                return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "copy")
            self.download(source, path)
            self.upload(path, target)

    def delete(self, uri: str) -> None:
        """Delete an object; a missing object is not an error."""
        import obstore

        try:
            with self.store_of(uri, "deleted") as store:
                obstore.delete(store, _key(uri))
        except NotFoundError:
            return


class _Body(io.RawIOBase):
    """The content of an object as a stream."""

    def __init__(self, result: GetResult, uri: str) -> None:
        self.uri, self._left = uri, memoryview(b"")
        self._chunks: Iterator[Any] = iter(result.stream(READ_SIZE))

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a part of a buffer; return the number of bytes, 0 at the end."""
        from engine.storage.gs_azure_errors import failures

        while not self._left:
            with failures(self.uri, "read"):
                chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._left = memoryview(chunk)
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size


def _get(store: GCSStore | AzureStore, uri: str) -> GetResult:
    import obstore

    return obstore.get(store, _key(uri))


def _key(uri: str) -> str:
    return _checked(uri, split_object(uri)[1])


def _checked(uri: str, key: str) -> str:
    """Return a key that obstore uses unchanged.

    Raises:
        ConfigError: A part of it is empty, ``.`` or ``..``.
    """
    if key and not {"", ".", ".."}.isdisjoint(key.split("/")):
        raise ConfigError(f"{uri!r} cannot be used: between its slashes a part is empty, '.' or '..'")
    return key


def _info(uri: str, key: str, found: ObjectMeta) -> ObjectInfo:
    modified = _nanoseconds(found["last_modified"])
    return ObjectInfo(uri=uri, key=key, size=found["size"], etag=_bare(found["e_tag"]), modified_ns=modified)


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 10**9


def _bare(etag: str | None) -> str:
    return (etag or "").strip('"')


def _attributes(content_type: str | None) -> Any:
    return {"Content-Type": content_type} if content_type else None


def _without_markers(items: Iterable[Any]) -> Iterator[Any]:
    """Skip empty objects that represent folders: obstore lists them without the slash at their end.

    An empty object is held until a key below it (then it is a folder) or a key that sorts after all of those arrives.
    """
    held: list[Any] = []
    for item in items:
        held = [one for one in held if one["size"] or not item["Key"].startswith(f"{one['Key']}/")]
        while held and (held[0]["size"] or item["Key"] > f"{held[0]['Key']}/"):
            yield held.pop(0)
        if held or not item["size"]:
            held.append(item)
        else:
            yield item
    yield from held

"""``gs://`` and ``az://`` through obstore: Google Cloud Storage and Azure Blob Storage, with the identities of each.

obstore retries by itself what may pass, and continues a body where its connection broke, if the object is unchanged.
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
from engine.storage.uris import AZ

if TYPE_CHECKING:
    from obstore import GetResult, ObjectMeta
    from obstore.store import AzureStore, GCSStore

ATTEMPTS = 8
"""At a request whose connection breaks off, where obstore makes one only."""

PAGE = 1000
"""Objects of a listing that are held at a time."""


class CloudBackend:
    """Buckets of Google Cloud Storage, or containers of one Azure storage account.

    Args:
        scheme: ``gs://`` or ``az://``.
        options: How the store is reached.
        say: Receives a sentence where credentials are waited for.
    """

    def __init__(self, scheme: str, options: StorageOptions, say: Callable[[str], None]) -> None:
        self.scheme, self.options, self.say = scheme, options, say
        self._stores: dict[str, GCSStore | AzureStore] = {}
        self._lock = threading.Lock()

    @contextmanager
    def store_of(self, uri: str, done: str) -> Iterator[GCSStore | AzureStore]:
        """The client of a bucket; a failure in the block becomes a sentence about ``uri`` that cannot be ``done``."""
        from engine.storage.gs_azure_errors import failures  # imports obstore
        from engine.storage.gs_azure_stores import connect

        bucket, _ = prefix_of(uri)
        with failures(uri, done):
            with self._lock:
                if bucket not in self._stores:
                    self._stores[bucket] = connect(self.scheme, bucket, self.options, self.say)
            yield self._stores[bucket]

    def _until_answered(self, work: Callable[[], None]) -> None:
        """Do ``work`` again, a few times, while its connection breaks off.

        obstore makes no request twice that could have another effect, such as one that begins an upload in parts, or a
        conditional write. Here it has none: an upload shows when it is whole, and writers compare what they find.
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
        """The object at ``uri``, or None."""
        import obstore

        _, prefix = prefix_of(uri)
        if not prefix or uri.endswith("/"):
            return None
        try:
            with self.store_of(uri, "looked at") as store:
                found = obstore.head(store, _key(uri))
        except NotFoundError:
            return None
        return _info(uri, uri.rpartition("/")[2], found)

    def read(self, uri: str) -> bytes:
        """The content of the object."""
        with self.store_of(uri, "read") as store:
            return bytes(_get(store, uri).bytes())

    def open(self, uri: str) -> BinaryIO:
        """Read the object as a stream."""
        with self.store_of(uri, "read") as store:
            result = _get(store, uri)
        return io.BufferedReader(_Body(result, uri), buffer_size=READ_SIZE)

    def write(self, uri: str, data: bytes, *, content_type: str | None, only_if_absent: bool) -> None:
        """Write an object, all at once."""
        import obstore

        mode: Any = "create" if only_if_absent else "overwrite"
        attributes = _attributes(content_type)

        def put() -> None:
            with self.store_of(uri, "written") as store:
                obstore.put(store, _key(uri), data, mode=mode, attributes=attributes, use_multipart=False)

        self._until_answered(put)

    def list(self, folder: str) -> Iterator[ObjectInfo]:
        """All objects below a folder, sorted by key."""
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
        """Copy an object to a path, with its time of change."""
        with self.store_of(uri, "read") as store, replacing(path) as temporary:
            result = _get(store, uri)
            if etag and _bare(result.meta["e_tag"]) != _bare(etag):
                raise ChangedError(
                    f"{uri} has changed since it was listed: start again, so that all of the data is of one moment"
                )
            with temporary.open("wb") as file:
                for chunk in result.stream(READ_SIZE):
                    file.write(chunk)
            modified = _nanoseconds(result.meta["last_modified"])
            os.utime(temporary, ns=(modified, modified))

    def upload(self, path: Path, uri: str) -> None:
        """Copy a file to an object, a large one in parallel parts."""
        import obstore

        content_type, _ = mimetypes.guess_type(_key(uri))

        def put() -> None:
            with self.store_of(uri, "written") as store:
                path.stat()  # obstore names no file in its errors
                obstore.put(store, _key(uri), path, attributes=_attributes(content_type))

        self._until_answered(put)

    def copy(self, source: str, target: str) -> None:
        """Copy an object to another place of the same kind.

        Google does so itself, in one step. Azure may show a copy before its bytes are there, so they come through here.
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
        """Delete an object; one that does not exist is no error."""
        import obstore

        try:
            with self.store_of(uri, "deleted") as store:
                obstore.delete(store, _key(uri))
        except NotFoundError:
            return


class _Body(io.RawIOBase):
    """The content of an object as it comes."""

    def __init__(self, result: GetResult, uri: str) -> None:
        self.uri, self._left = uri, memoryview(b"")
        self._chunks: Iterator[Any] = iter(result.stream(READ_SIZE))

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a part of a buffer; how much was filled, 0 at the end."""
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
    """A key that obstore takes as it is written.

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
    """Leave out empty objects that stand for folders, which obstore gives without the slash at their end.

    An empty object may be one until a key below it, or one that sorts after all of those, comes.
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

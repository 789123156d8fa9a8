"""``s3://`` through boto3: any S3-compatible endpoint, credentials from the standard AWS chain."""

from __future__ import annotations

import hashlib
import io
import mimetypes
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from engine.errors import ConfigError, StorageError
from engine.storage.base import BrokenError, ChangedError, NotFoundError, ObjectInfo
from engine.storage.bucket_uris import is_access_point, prefix_of, split, split_object
from engine.storage.files import replacing
from engine.storage.options import StorageOptions
from engine.storage.s3_client import PARTS, connect, is_aws
from engine.storage.s3_listing import in_order, pages
from engine.storage.s3_stream import PIECE, READ_SIZE, Digests, Stream, md5, modified_ns
from engine.text.uris import S3

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONNECT_TIMEOUT = 10
READ_TIMEOUT = 60
"""Seconds without a byte before a connection counts as broken; longer than stalls of 20 seconds."""

LARGE = 16 << 20
"""Minimum bytes of an object that is downloaded in parts, which needs one more request."""

NO_STORE = "what answered is not an object store, but perhaps a proxy: check the endpoint"

DIRECTORY_BUCKET = "--x-s3"
"""Suffix of the names of S3 directory buckets, whose listings are not sorted."""


class S3Backend:
    """An S3-compatible store. Clients of boto3 are safe to share between threads."""

    def __init__(self, options: StorageOptions, say: Callable[[str], None]) -> None:
        self.options, self.say = options, say
        self._digests = Digests(say)
        self._client: S3Client | None = None
        self._lock = threading.Lock()

    @contextmanager
    def client_for(self, uri: str, done: str) -> Iterator[S3Client]:
        """Yield the client; failures in the block become StorageErrors: "``uri`` cannot be ``done``"."""
        from engine.storage.s3_errors import failures  # imports boto3, which takes a while

        with failures(uri, done, self.options.endpoint_url or "AWS"), self._lock:
            if self._client is None:
                self._client = connect(self.options, self.say, timeouts=(CONNECT_TIMEOUT, READ_TIMEOUT))
            client = self._client
        if is_access_point(split(uri)[0]) and not is_aws(client):
            raise ConfigError(
                f"{uri} is an access point of AWS, but {client.meta.endpoint_url} is not AWS: give a bucket"
            )
        with failures(uri, done, client.meta.endpoint_url):
            yield client

    def head(self, uri: str) -> ObjectInfo | None:
        """Return the metadata of the object at ``uri``, or None."""
        _, key = split(uri)
        if not key or key.endswith("/"):
            return None
        try:
            with self.client_for(uri, "accessed") as client:
                found = self._looked_at(client, uri)
        except NotFoundError:
            return None
        return ObjectInfo(
            uri=uri,
            key=key.rpartition("/")[2],
            size=found["ContentLength"],
            etag=found.get("ETag", ""),
            modified_ns=modified_ns(found),
        )

    def _looked_at(self, client: S3Client, uri: str) -> Any:
        """Return the metadata of an object. An error of HEAD has no body: GET follows, for the error's description."""
        from botocore.exceptions import ClientError

        bucket, key = split_object(uri)
        try:
            return client.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") not in {"400", "403"}:
                raise
        answer = self._get(uri, "accessed")
        answer["Body"].close()
        return answer

    def open(self, uri: str) -> BinaryIO:
        """Read the object as a stream; after a broken connection it continues at the same byte."""
        return io.BufferedReader(self._stream(uri), buffer_size=READ_SIZE)

    def open_checked(self, uri: str) -> BinaryIO:
        """Read as a stream; a small object is read completely first, and again if it arrives corrupted."""

        def once() -> BinaryIO:
            stream = self._stream(uri, again=True)
            if stream.size >= LARGE:
                stream.again = False
                return io.BufferedReader(stream, buffer_size=READ_SIZE)
            with stream:
                return io.BytesIO(stream.readall())

        return self._digests.until_whole(once)

    def _stream(self, uri: str, *, again: bool = False) -> Stream:
        return Stream(partial(self._get, uri), uri, self._digests, again=again)

    def _get(self, uri: str, done: str = "read", **more: Any) -> Any:
        """Return the answer to GET with unread body. botocore does not retry faults in the body of an error answer."""
        from engine.storage.retries import ATTEMPTS, pause

        bucket, key = split_object(uri)
        attempt = 1
        while True:
            try:
                with self.client_for(uri, done) as client:
                    return client.get_object(Bucket=bucket, Key=key, **more)
            except BrokenError as error:
                if attempt == ATTEMPTS:
                    raise StorageError(f"{error}, at each of {ATTEMPTS} attempts") from None
                self.say(f"{uri} broke off the connection: attempt {attempt + 1} of {ATTEMPTS}")
                time.sleep(pause(attempt))
                attempt += 1

    def read(self, uri: str) -> bytes:
        """Return the content of the object; read it again if the checksum does not match."""

        def once() -> bytes:
            with self._stream(uri, again=True) as stream:
                return stream.readall()

        return self._digests.until_whole(once)

    def write(self, uri: str, data: bytes, *, content_type: str | None, only_if_absent: bool) -> None:
        """Write an object atomically."""
        bucket, key = split_object(uri)
        extra: dict[str, Any] = {"ContentType": content_type} if content_type else {}
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if only_if_absent else {}
        with self.client_for(uri, "written") as client:
            client.put_object(Bucket=bucket, Key=key, Body=data, **extra, **condition)

    def list(self, folder: str) -> Iterator[ObjectInfo]:
        """Yield all objects below a folder, sorted by key, with a thousand per request."""
        bucket, prefix = prefix_of(folder)

        def ask(token: str | None) -> Any:
            following: dict[str, Any] = {} if token is None else {"ContinuationToken": token}
            with self.client_for(folder, "listed") as client:
                return client.list_objects_v2(Bucket=bucket, Prefix=prefix, **following)

        for item in in_order(pages(ask, folder), folder, whole=bucket.endswith(DIRECTORY_BUCKET)):
            if not item["Key"].startswith(prefix):
                raise StorageError(f"{folder} cannot be listed: the store lists {item['Key']!r}, which is outside it")
            if not item["Key"].endswith("/"):  # empty objects with a slash represent folders
                yield ObjectInfo(
                    uri=f"{S3}{bucket}/{item['Key']}",
                    key=item["Key"].removeprefix(prefix),
                    size=item["Size"],
                    etag=item.get("ETag", ""),
                    modified_ns=modified_ns(item),
                )

    def download(self, uri: str, path: Path, etag: str | None = None) -> None:
        """Copy an object to a path: small objects by one request, large objects in parallel parts."""
        split_object(uri)

        def once() -> None:
            with self.client_for(uri, "read") as client, replacing(path) as temporary:
                modified, found = self._fetch(client, uri, temporary)
                if etag and found and _bare(found) != _bare(etag) and not self._is_listed(uri, etag):
                    raise ChangedError(
                        f"{uri} has changed since it was listed: start again, so that all data has the same state"
                    )
                os.utime(temporary, ns=(modified, modified))

        self._digests.until_whole(once)

    def _is_listed(self, uri: str, etag: str) -> bool:
        """Return True if the store lists an object with this ETag: some stores answer GET with another ETag."""
        bucket, key = split_object(uri)
        with self.client_for(uri, "listed") as client:
            found = client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1).get("Contents", [])
        return any(item["Key"] == key and _bare(item.get("ETag", "")) == _bare(etag) for item in found)

    def _fetch(self, client: S3Client, uri: str, path: Path) -> tuple[int, str]:
        """Fetch an object as a stream or in parts; return modification time and ETag."""
        bucket, key = split_object(uri)
        with self._stream(uri, again=True) as stream:
            if stream.size < LARGE:
                with path.open("wb") as file:
                    shutil.copyfileobj(stream, file, PIECE)
        if stream.size >= LARGE:
            client.download_file(bucket, key, str(path), Config=_transfer())
            if stream.md5 is not None:
                with path.open("rb") as file:
                    self._digests.check(uri, stream.md5, hashlib.file_digest(file, md5), again=True)
        return stream.modified_ns, stream.etag or ""

    def upload(self, path: Path, uri: str) -> None:
        """Copy a file to an object; large files in parallel parts."""
        bucket, key = split_object(uri)
        kind, _ = mimetypes.guess_type(key)
        extra = {"ContentType": kind} if kind else None
        with self.client_for(uri, "written") as client:
            client.upload_file(str(path), bucket, key, ExtraArgs=extra, Config=_transfer())

    def copy(self, source: str, target: str) -> None:
        """Copy an object within the store, atomically."""
        (from_bucket, from_key), (bucket, key) = split_object(source), split_object(target)
        with self.client_for(source, f"copied to {target}") as client:
            client.copy_object(Bucket=bucket, Key=key, CopySource={"Bucket": from_bucket, "Key": from_key})

    def delete(self, uri: str) -> None:
        """Delete an object; a missing object is not an error."""
        bucket, key = split_object(uri)
        with self.client_for(uri, "deleted") as client:
            client.delete_object(Bucket=bucket, Key=key)


def _bare(etag: str) -> str:
    return etag.strip('"')


def _transfer() -> Any:
    from boto3.s3.transfer import TransferConfig

    # The other client, CRT, ignores a custom endpoint.
    return TransferConfig(preferred_transfer_client="classic", max_concurrency=PARTS)

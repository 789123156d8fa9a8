"""``s3://`` through boto3: any S3-compatible endpoint, credentials from the standard AWS chain."""

from __future__ import annotations

import io
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

from engine.errors import ConfigError, StorageError
from engine.storage.base import ExistsError, NotFoundError, ObjectInfo
from engine.storage.endpoints import check_endpoint
from engine.storage.files import replacing
from engine.storage.transfer import THREADS
from engine.storage.uris import S3

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ATTEMPTS = 6
"""Of one request, with backoff and jitter, before the store counts as gone; AWS_MAX_ATTEMPTS has precedence."""

PARTS = 4
"""Of one large object, under way at once."""

LARGE = 16 << 20
"""Bytes from which an object is downloaded in parts, which takes a request more."""

READ_SIZE = 1 << 20
PIECE = 1 << 16
"""Bytes taken from a connection at a time: what is lost, and asked for again, when it stalls."""

AWS_HOSTS = (".amazonaws.com", ".amazonaws.com.cn")
T = TypeVar("T")


class S3Backend:
    """An S3-compatible store. Clients of boto3 are safe to share between threads."""

    def __init__(self, endpoint_url: str | None, region: str | None) -> None:
        self.endpoint_url, self.region = endpoint_url, region
        self._client: S3Client | None = None
        self._lock = threading.Lock()

    @contextmanager
    def client_for(self, uri: str, done: str) -> Iterator[S3Client]:
        """The client; what fails in the block becomes a sentence that names ``uri`` and what was to be done to it."""
        from engine.storage.s3_errors import failures  # imports boto3, which takes a while

        with failures(uri, done, self.endpoint_url or "AWS"), self._lock:
            client = self._client = self._client or self._connect()
        with failures(uri, done, client.meta.endpoint_url):
            yield client

    def _connect(self) -> S3Client:
        import boto3
        from botocore.config import Config
        from botocore.session import Session

        core = Session()
        session = boto3.session.Session(botocore_session=core)
        config = Config(
            retries={"mode": "standard"}
            if core.get_config_variable("max_attempts")
            else {"mode": "standard", "total_max_attempts": ATTEMPTS},
            connect_timeout=10,
            read_timeout=60,
            max_pool_connections=THREADS * PARTS,
        )

        def make(config: Config) -> S3Client:
            return session.client("s3", endpoint_url=self.endpoint_url, region_name=self.region, config=config)

        client = make(config)
        # The environment and the AWS configuration name endpoints too, in an order that botocore knows best.
        endpoint = client.meta.endpoint_url
        if (urlsplit(endpoint).hostname or "").endswith(AWS_HOSTS):
            return client
        check_endpoint(endpoint)
        # Few other stores have a host name for each bucket, or know the checksums that AWS takes by default.
        other = Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required")
        return make(config.merge(other))

    def head(self, uri: str) -> ObjectInfo | None:
        """The object at ``uri``, or None."""
        bucket, key = _split(uri)
        if not key or key.endswith("/"):
            return None
        try:
            with self.client_for(uri, "looked at") as client:
                found = client.head_object(Bucket=bucket, Key=key)
        except NotFoundError:
            return None
        return ObjectInfo(
            uri=uri,
            key=key.rpartition("/")[2],
            size=found["ContentLength"],
            etag=found.get("ETag", ""),
            modified_ns=_nanoseconds(found),
        )

    def open(self, uri: str) -> BinaryIO:
        """Read the object as a stream; a connection that breaks is taken up again where it broke."""
        return io.BufferedReader(_Stream(self, uri), buffer_size=READ_SIZE)

    def read(self, uri: str) -> bytes:
        """The content of the object, read anew if it does not have its checksum."""

        def once() -> bytes:
            with _Stream(self, uri) as stream:
                return stream.readall()

        return _until_whole(once)

    def write(self, uri: str, data: bytes, *, content_type: str | None, only_if_absent: bool) -> None:
        """Write an object, all at once."""
        bucket, key = _object(uri)
        extra: dict[str, Any] = {"ContentType": content_type} if content_type else {}
        extra |= {"IfNoneMatch": "*"} if only_if_absent else {}
        with self.client_for(uri, "written") as client:
            client.put_object(Bucket=bucket, Key=key, Body=data, **extra)

    def list(self, folder: str) -> Iterator[ObjectInfo]:
        """All objects below a folder, sorted by key, a thousand a request."""
        bucket, key = _split(folder)
        prefix = f"{key.rstrip('/')}/" if key.strip("/") else ""
        with self.client_for(folder, "listed") as client:
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                for item in page.get("Contents", []):
                    if not item["Key"].endswith("/"):  # an empty object that stands for a folder
                        yield ObjectInfo(
                            uri=f"{S3}{bucket}/{item['Key']}",
                            key=item["Key"][len(prefix) :],
                            size=item["Size"],
                            etag=item.get("ETag", ""),
                            modified_ns=_nanoseconds(item),
                        )

    def download(self, uri: str, path: Path) -> None:
        """Copy an object to a path: a small one by one request, a large one in parallel parts."""
        bucket, key = _object(uri)

        def once() -> None:
            with self.client_for(uri, "read") as client, replacing(path) as temporary:
                with _Stream(self, uri) as stream:
                    modified = stream.modified_ns
                    if stream.size < LARGE:
                        with temporary.open("wb") as file:
                            shutil.copyfileobj(stream, file, READ_SIZE)
                if stream.size >= LARGE:
                    client.download_file(bucket, key, str(temporary), Config=_transfer())
                os.utime(temporary, ns=(modified, modified))

        _until_whole(once)

    def upload(self, path: Path, uri: str) -> None:
        """Copy a file to an object, large ones in parallel parts."""
        bucket, key = _object(uri)
        with self.client_for(uri, "written") as client:
            client.upload_file(str(path), bucket, key, Config=_transfer())

    def delete(self, uri: str) -> None:
        """Delete an object; one that is not there is no error."""
        bucket, key = _object(uri)
        with self.client_for(uri, "deleted") as client:
            client.delete_object(Bucket=bucket, Key=key)


class _CorruptError(StorageError):
    """The content does not have the checksum that the store gave with it."""


class _Stream(io.RawIOBase):
    """The body of an object, read on from where a connection broke, if the object is still the same."""

    def __init__(self, backend: S3Backend, uri: str) -> None:
        self.backend, self.uri = backend, uri
        response = self._get()
        self.body, self.etag = response["Body"], response.get("ETag")
        self.size, self.modified_ns = int(response["ContentLength"]), _nanoseconds(response)
        self.position = self.broken = 0

    def _get(self, **extra: Any) -> Any:
        bucket, key = _object(self.uri)
        with self.backend.client_for(self.uri, "read") as client:
            return client.get_object(Bucket=bucket, Key=key, **extra)

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self.body.close()
        super().close()

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self.read(READ_SIZE) or b"", b""))

    def readinto(self, buffer: Any) -> int:
        from botocore.exceptions import FlexibleChecksumError, HTTPClientError, IncompleteReadError
        from urllib3.exceptions import HTTPError  # of TLS, which botocore lets through

        while True:
            try:
                # At the end an empty read makes botocore compare length and checksum.
                chunk: bytes = self.body.read(min(len(buffer), PIECE))
                if not chunk and self.position < self.size:
                    raise IncompleteReadError(actual_bytes=self.position, expected_bytes=self.size)
            except (IncompleteReadError, HTTPClientError, HTTPError) as error:
                self._reopen(error)
                continue
            except FlexibleChecksumError as error:
                raise _CorruptError(f"{self.uri} cannot be read: it came damaged ({error}); try again") from None
            buffer[: len(chunk)] = chunk
            self.position += len(chunk)
            self.broken = 0
            return len(chunk)

    def _reopen(self, error: Exception) -> None:
        self.body.close()
        self.broken += 1
        if self.broken >= ATTEMPTS:
            message = f"{self.uri} broke off at byte {self.position} of {self.size} at each of {ATTEMPTS} attempts"
            raise StorageError(f"{message}: {error}; check the network, then try again") from None
        time.sleep(random.random() * 0.1 * 2**self.broken)
        try:
            same = {"IfMatch": self.etag} if self.etag else {}
            self.body = self._get(Range=f"bytes={self.position}-", **same)["Body"]
        except ExistsError:
            raise StorageError(f"{self.uri} was overwritten while it was read: try again") from None


def _until_whole(work: Callable[[], T]) -> T:
    """Do ``work`` again, a few times, while what it reads comes damaged."""
    for _ in range(ATTEMPTS // 2):
        try:
            return work()
        except _CorruptError:
            continue
    return work()


def _transfer() -> Any:
    from boto3.s3.transfer import TransferConfig

    # The other client, CRT, ignores a custom endpoint.
    return TransferConfig(preferred_transfer_client="classic", max_concurrency=PARTS)


def _nanoseconds(answer: Any) -> int:
    """When an object was written; listings of some stores are finer than the whole seconds of other answers."""
    return int(answer["LastModified"].timestamp()) * 10**9


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix(S3).partition("/")
    if not bucket:
        raise ConfigError(f"{uri!r} names no bucket: write s3://bucket/key")
    return bucket, key


def _object(uri: str) -> tuple[str, str]:
    bucket, key = _split(uri)
    if not key or key.endswith("/"):
        raise ConfigError(f"{uri!r} names no object: write s3://bucket/key")
    return bucket, key

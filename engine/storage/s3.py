"""``s3://`` through boto3: any S3-compatible endpoint, credentials from the standard AWS chain."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from engine.errors import ConfigError, StorageError
from engine.storage.base import ExistsError, NotFoundError, ObjectInfo
from engine.storage.endpoints import check_endpoint
from engine.storage.files import replacing
from engine.storage.uris import S3

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MAX_CONNECTIONS = 32
ATTEMPTS = 6
"""Of one request, with backoff and jitter, before the store counts as gone."""

READ_SIZE = 1 << 20
MISSING = frozenset({"404", "NoSuchKey", "NotFound", "NoSuchVersion"})
CONFLICT = frozenset({"412", "PreconditionFailed", "409", "ConditionalRequestConflict"})
ADVICE = {
    "AccessDenied": "access is denied: these credentials may not do it",
    "403": "access is denied: these credentials may not do it, or the object is not there and may not be listed",
    "ExpiredToken": "the credentials have expired: renew them",
    "InvalidAccessKeyId": "the access key is unknown to the store: check AWS_ACCESS_KEY_ID and the endpoint",
    "SignatureDoesNotMatch": "the secret key is wrong: check AWS_SECRET_ACCESS_KEY",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
    "PermanentRedirect": "the bucket lies in another region: set storage.region or AWS_DEFAULT_REGION",
    "AuthorizationHeaderMalformed": "the bucket lies in another region: set storage.region or AWS_DEFAULT_REGION",
    "SlowDown": "the store asked to slow down, and went on asking: try again later",
}


class S3Backend:
    """An S3-compatible store. Clients of boto3 are safe to share between threads."""

    def __init__(self, endpoint_url: str | None, region: str | None) -> None:
        self.endpoint_url = endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if self.endpoint_url:
            check_endpoint(self.endpoint_url)
        self.region = region
        self._client: S3Client | None = None

    @property
    def client(self) -> S3Client:
        """The client, made when it is first needed: importing boto3 takes a while."""
        if self._client is None:
            import boto3
            from botocore.config import Config

            config = Config(
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                connect_timeout=10,
                read_timeout=60,
                max_pool_connections=MAX_CONNECTIONS,
                s3={"addressing_style": "path" if self.endpoint_url else "auto"},
            )
            with _failures("s3://", "reached", self.endpoint_url):
                session = boto3.session.Session()
                region = self.region or session.region_name or ("us-east-1" if self.endpoint_url else None)
                self._client = session.client("s3", endpoint_url=self.endpoint_url, region_name=region, config=config)
        return self._client

    def head(self, uri: str) -> ObjectInfo | None:
        """The object at ``uri``, or None."""
        bucket, key = _split(uri)
        if not key:
            return None
        try:
            with _failures(uri, "looked at", self.endpoint_url):
                found = self.client.head_object(Bucket=bucket, Key=key)
        except NotFoundError:
            return None
        return ObjectInfo(uri=uri, key=key.rpartition("/")[2], size=found["ContentLength"], etag=found["ETag"])

    def open(self, uri: str) -> BinaryIO:
        """Read the object as a stream; a connection that breaks is taken up again where it broke."""
        bucket, key = _object(uri)
        with _failures(uri, "read", self.endpoint_url):
            first = self.client.get_object(Bucket=bucket, Key=key)
        return io.BufferedReader(_Stream(self, uri, first), buffer_size=READ_SIZE)

    def write(self, uri: str, data: bytes, *, content_type: str | None, only_if_absent: bool) -> None:
        """Write an object, all at once."""
        bucket, key = _object(uri)
        extra: dict[str, Any] = {"ContentType": content_type} if content_type else {}
        extra |= {"IfNoneMatch": "*"} if only_if_absent else {}
        with _failures(uri, "written", self.endpoint_url):
            self.client.put_object(Bucket=bucket, Key=key, Body=data, **extra)

    def list(self, folder: str) -> Iterator[ObjectInfo]:
        """All objects below a folder, sorted by key, a thousand a request."""
        bucket, key = _split(folder)
        prefix = f"{key.rstrip('/')}/" if key.strip("/") else ""
        with _failures(folder, "listed", self.endpoint_url):
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                for item in page.get("Contents", []):
                    if not item["Key"].endswith("/"):  # an empty object that stands for a folder
                        yield ObjectInfo(
                            uri=f"{S3}{bucket}/{item['Key']}",
                            key=item["Key"][len(prefix) :],
                            size=item["Size"],
                            etag=item["ETag"],
                        )

    def download(self, uri: str, path: Path) -> None:
        """Copy an object to a path, large ones in parallel parts."""
        bucket, key = _object(uri)
        with replacing(path) as temporary, _failures(uri, "read", self.endpoint_url):
            self.client.download_file(bucket, key, str(temporary), Config=_transfer())

    def upload(self, path: Path, uri: str) -> None:
        """Copy a file to an object, large ones in parallel parts."""
        bucket, key = _object(uri)
        with _failures(uri, "written", self.endpoint_url):
            self.client.upload_file(str(path), bucket, key, Config=_transfer())

    def delete(self, uri: str) -> None:
        """Delete an object; one that is not there is no error."""
        bucket, key = _object(uri)
        with _failures(uri, "deleted", self.endpoint_url):
            self.client.delete_object(Bucket=bucket, Key=key)


class _Stream(io.RawIOBase):
    """The body of an object, read on from where a connection broke, if the object is still the same."""

    def __init__(self, backend: S3Backend, uri: str, response: Any) -> None:
        self.backend, self.uri = backend, uri
        self.body, self.etag = response["Body"], response["ETag"]
        self.size, self.position, self.broken = response["ContentLength"], 0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

        while self.position < self.size:
            try:
                chunk = self.body.read(len(buffer))
                if not chunk:
                    raise IncompleteReadError(actual_bytes=self.position, expected_bytes=self.size)
            except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError) as error:
                self._reopen(error)
                continue
            buffer[: len(chunk)] = chunk
            self.position += len(chunk)
            self.broken = 0
            return len(chunk)
        return 0

    def _reopen(self, error: Exception) -> None:
        self.broken += 1
        if self.broken >= ATTEMPTS:
            raise StorageError(f"{self.uri} broke off {ATTEMPTS} times at byte {self.position}: {error}") from None
        bucket, key = _object(self.uri)
        with _failures(self.uri, "read", self.backend.endpoint_url):
            response = self.backend.client.get_object(
                Bucket=bucket, Key=key, Range=f"bytes={self.position}-", IfMatch=self.etag
            )
        self.body = response["Body"]


def _transfer() -> Any:
    from boto3.s3.transfer import TransferConfig

    # The other client, CRT, ignores a custom endpoint.
    return TransferConfig(preferred_transfer_client="classic", max_concurrency=4)


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


@contextmanager
def _failures(uri: str, done: str, endpoint: str | None) -> Iterator[None]:
    """What boto3 raises, as sentences."""
    from boto3.exceptions import Boto3Error
    from botocore import exceptions as aws

    where = endpoint or "AWS"
    try:
        yield
    except aws.ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code == "NoSuchBucket":
            raise NotFoundError(f"{uri} cannot be {done}: {where} has no such bucket; check its name") from None
        if code in MISSING:
            raise NotFoundError(f"{uri} is not there: check bucket and key") from None
        if code in CONFLICT:
            raise ExistsError(f"{uri} is there already, or has just changed") from None
        advice = ADVICE.get(code, f"{where} answered {code}: {error.response.get('Error', {}).get('Message', '')}")
        raise StorageError(f"{uri} cannot be {done}: {advice}") from None
    except (
        aws.NoCredentialsError,
        aws.PartialCredentialsError,
        aws.CredentialRetrievalError,
        aws.ProfileNotFound,
    ) as e:
        advice = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role"
        raise StorageError(f"{uri} cannot be {done}: no credentials ({e}); {advice}") from None
    except (aws.EndpointConnectionError, aws.ConnectTimeoutError, aws.ReadTimeoutError, aws.ConnectionError) as e:
        raise StorageError(f"{uri} cannot be {done}: {where} cannot be reached ({e})") from None
    except (aws.ParamValidationError, aws.InvalidRegionError) as error:
        raise ConfigError(f"{uri} cannot be {done}: {error}") from None
    except (aws.BotoCoreError, aws.HTTPClientError, Boto3Error) as error:
        raise StorageError(f"{uri} cannot be {done}: {error}") from None
    except OSError as error:
        raise StorageError(f"{uri} cannot be {done}: {error.strerror or error}") from None

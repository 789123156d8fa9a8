"""Fast GET of small objects: botocore spends more time on preparing a request than on the transfer.

Requests for objects of one bucket differ only in key, time and signature. This module learns the rest from a request of
botocore. It uses the same credentials and checks certificates in the same way; redirects are not followed. Any answer
other than the object is discarded: the request then goes through botocore, with its retries and error messages.
botocore alone is used with a proxy, and with other kinds of signatures.

obstore is as fast, but follows redirects wherever they lead.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cached_property, lru_cache
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from queue import Empty, SimpleQueue
from socket import gaierror
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, quote, urlsplit

from urllib3.util.wait import wait_for_read

from engine.storage.bucket_uris import split

if TYPE_CHECKING:
    from engine.storage.retries import Retries

NOTHING = hashlib.sha256().hexdigest()
"""sha256 of the empty body of a GET."""

LONGEST_REFUSAL = 4096
"""Maximum bytes read of an error answer."""

ALIKE = frozenset({"user-agent", "x-amz-checksum-mode", "x-amz-request-payer"})
"""Headers that are the same in all requests, in lower case."""


class Connections:
    """Open connections to one server, each for one request at a time. A connection with a failure is closed.

    Connections of ``http.client``: the pool of urllib3 takes twice as long for a small object.

    Args:
        url: URL of the server.
        timeouts: Seconds to connect, and to wait for a byte.
        trusted: TLS context with the trusted authorities; None for plain HTTP.
    """

    def __init__(self, url: SplitResult, timeouts: tuple[float, float], trusted: ssl.SSLContext | None) -> None:
        self._url, self._timeouts, self._trusted = url, timeouts, trusted
        self._idle: SimpleQueue[HTTPConnection] = SimpleQueue()

    @contextmanager
    def one(self) -> Iterator[HTTPConnection]:
        """Yield a connection for one request and its complete answer."""
        connection = self._at_hand() or self._new()
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        self._idle.put(connection)

    def _at_hand(self) -> HTTPConnection | None:
        while True:
            try:
                connection = self._idle.get_nowait()
            except Empty:
                return None
            if connection.sock is not None and not wait_for_read(connection.sock, timeout=0):
                return connection
            connection.close()  # closed by the server

    def _new(self) -> HTTPConnection:
        host, port, connecting = self._url.hostname or "", self._url.port, self._timeouts[0]
        connection = (
            HTTPSConnection(host, port, timeout=connecting, context=self._trusted)
            if self._url.scheme == "https"
            else HTTPConnection(host, port, timeout=connecting)
        )
        connection.connect()
        connection.sock.settimeout(self._timeouts[1])
        return connection


@dataclass(frozen=True)
class Pattern:
    """The common part of requests for objects of one bucket."""

    connections: Connections
    host: str
    path: str
    """Path in the URL before the key."""
    headers: Mapping[str, str]
    region: str
    service: str
    checksums: Mapping[str, Any]
    """Checksums to verify, in botocore's internal form."""


@dataclass(frozen=True)
class Whole:
    """An object with its metadata under the names of botocore's ``get_object``."""

    content: bytes
    about: Mapping[str, Any]


class FastGet:
    """Reads objects of buckets from which botocore has read an object before. Safe to use from several threads.

    Args:
        credentials: Returns the current credentials.
        retries: Counts failed requests.
        timeouts: Seconds to connect, and to wait for a byte.
        ca_bundle: Path of the trusted authorities; None: those of botocore.
    """

    def __init__(
        self,
        credentials: Callable[[], Any],
        retries: Retries,
        *,
        timeouts: tuple[float, float],
        ca_bundle: str | None,
    ) -> None:
        self._credentials, self._retries = credentials, retries
        self._timeouts, self._ca_bundle = timeouts, ca_bundle
        self._patterns: dict[str, Pattern] = {}
        self._connections: dict[str, Connections] = {}

    @cached_property
    def _trusted(self) -> ssl.SSLContext:
        from botocore.httpsession import get_cert_path

        return ssl.create_default_context(cafile=self._ca_bundle or get_cert_path(True))

    def register(self, client: Any) -> None:
        """Learn from the requests of a client."""
        self._operation = client.meta.service_model.operation_model("GetObject")
        client.meta.events.register("before-sign.s3.GetObject", self._learn)

    def _learn(self, request: Any, signature_version: Any, signing_name: str, region_name: str, **_: Any) -> None:
        from botocore.utils import get_environ_proxies

        bucket, key = split(request.context["uri"])
        url, end = request.url, "/" + _quoted(key)
        plain = signature_version == "s3v4" and "Range" not in request.headers and url.endswith(end)
        if not plain or get_environ_proxies(url):
            return
        parts, signing = urlsplit(url), request.context.get("signing", {})
        server, trusted = f"{parts.scheme}://{parts.netloc}", self._trusted if parts.scheme == "https" else None
        self._patterns[bucket] = Pattern(
            connections=self._connections.setdefault(server, Connections(parts, self._timeouts, trusted)),
            host=parts.netloc.removesuffix({"http": ":80", "https": ":443"}[parts.scheme]),
            path=parts.path.removesuffix(end) + "/",
            headers={name: _text(value) for name, value in request.headers.items() if name.lower() in ALIKE},
            region=signing.get("region") or region_name,
            service=signing.get("signing_name") or signing_name,
            checksums=request.context.get("checksum", {}),
        )

    def __call__(self, uri: str, *, most: int) -> Whole | None:
        """Return an object of less than ``most`` bytes; None: use botocore.

        Raises:
            FlexibleChecksumError: The checksum does not match.
        """
        from botocore.exceptions import BotoCoreError, FlexibleChecksumError

        from engine.storage.retries import PASSING_STATUS

        bucket, key = split(uri)
        pattern = self._patterns.get(bucket)
        self._retries.none_lost()
        if pattern is None:
            return None
        path = pattern.path + _quoted(key)
        try:
            headers = signed(pattern, path, self._credentials(), time.gmtime())
            with pattern.connections.one() as connection:
                connection.request("GET", path, headers=headers)
                answer = connection.getresponse()
                if answer.status == 200:
                    if answer.length is not None and answer.length < most and answer.headers["last-modified"]:
                        return self._read(answer, pattern)
                    connection.close()
                    return None
                lost = _code(answer) if answer.status in PASSING_STATUS else None
                connection.close()
        except FlexibleChecksumError:
            raise
        except (BotoCoreError, HTTPException, OSError, ValueError) as error:
            lost = _name(error)
        self._patterns.pop(bucket, None)
        if lost is not None:
            self._retries.lost(uri, lost)
        return None

    def _read(self, answer: HTTPResponse, pattern: Pattern) -> Whole:
        from botocore.httpchecksum import handle_checksum_body

        headers = answer.headers
        found: dict[str, Any] = {"headers": headers, "body": answer, "context": {}}
        whole: Any = SimpleNamespace(raw=answer)
        handle_checksum_body(whole, found, {"checksum": pattern.checksums}, self._operation)
        about = {"LastModified": parsedate_to_datetime(headers["last-modified"]), "ETag": headers.get("etag", "")}
        if encryption := headers.get("x-amz-server-side-encryption"):
            about["ServerSideEncryption"] = encryption
        return Whole(found["body"].read(), about)


def signed(pattern: Pattern, path: str, credentials: Any, now: time.struct_time) -> dict[str, str]:
    """Return the signed headers of a GET.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html

    Args:
        pattern: Common part of the bucket's requests.
        path: Quoted path with its leading slash.
        credentials: ``access_key``, ``secret_key`` and ``token``, which may be None.
        now: Time in UTC.
    """
    moment, day = time.strftime("%Y%m%dT%H%M%SZ", now), time.strftime("%Y%m%d", now)
    headers = {**pattern.headers, "X-Amz-Date": moment, "X-Amz-Content-SHA256": NOTHING}
    if credentials.token:
        headers["X-Amz-Security-Token"] = credentials.token
    counting = {name.lower(): value for name, value in headers.items() if name.lower().startswith("x-amz-")}
    lines = sorted({"host": pattern.host, **counting}.items())
    names = ";".join(name for name, _ in lines)
    request = "\n".join(["GET", path, "", *(f"{name}:{value}" for name, value in lines), "", names, NOTHING])
    scope = f"{day}/{pattern.region}/{pattern.service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = _key(credentials.secret_key, day, pattern.region, pattern.service)
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    who = f"Credential={credentials.access_key}/{scope}"
    headers["Authorization"] = f"AWS4-HMAC-SHA256 {who}, SignedHeaders={names}, Signature={signature}"
    return headers


@lru_cache(maxsize=8)
def _key(secret: str, *scope: str) -> bytes:
    """Return the signing key of a day."""
    key = f"AWS4{secret}".encode()
    for part in (*scope, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _code(answer: HTTPResponse) -> str:
    """Return the error code of an answer."""
    found = re.search(rb"<Code>(\w+)</Code>", answer.read(LONGEST_REFUSAL))
    return found[1].decode() if found is not None else str(answer.status)


def _name(error: Exception) -> str:
    """Return botocore's name of a connection error."""
    if isinstance(error, TimeoutError):
        return "ReadTimeoutError"
    return (
        "EndpointConnectionError" if isinstance(error, ConnectionRefusedError | gaierror) else "ConnectionClosedError"
    )


def _quoted(key: str) -> str:
    """Quote a key for a URL in the same way as botocore."""
    return quote(key, safe="/-._~")


def _text(value: str | bytes) -> str:
    return value.decode("ascii") if isinstance(value, bytes) else value

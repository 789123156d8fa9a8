"""A proxy before a real S3 server that does to requests and answers what networks and stores do on a bad day."""

from __future__ import annotations

import base64
import hashlib
import http.client
import re
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from random import Random
from threading import Lock, Thread
from urllib.parse import urlsplit

FLIPS = count()
ERROR = "<Error><Code>{code}</Code><Message>no</Message></Error>"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def reads_object(self) -> bool:
        """Whether what comes back is an object's content, not a listing."""
        return self.method == "GET" and "?" not in self.path and self.path.count("/") > 1

    @property
    def writes_content(self) -> bool:
        return self.method == "PUT" and bool(self.body)

    @property
    def access_key(self) -> str:
        found = re.search(r"Credential=([^/]+)/", self.headers.get("Authorization", ""))
        return found[1] if found else ""


Fault = Callable[["Handler", Request], None]
"""Answers a request in some wrong way, whether the store was asked or not."""


class FaultyS3(ThreadingHTTPServer):
    """Forwards to a store. Requests meet faults in the order of ``faults`` (GET and PUT), or at random at ``rate``.

    Attributes:
        faults: What the next requests to GET and PUT meet; then all is well.
        rate: Share of all requests that meet one of ``kinds``.
        injected: How many of each kind there were at random.
        accepted: Access keys that have not expired; None: all.
        conditional: Whether the store knows conditional writes.
        before: Chooses a fault for a request that meets no other.
        requests: Of what, in order: (method, path).
        ranges: What GET asked for.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: str, handler: type[Handler] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), handler or Handler)
        self.upstream = urlsplit(upstream).netloc
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.faults: deque[Fault] = deque()
        self.rate, self.kinds, self.random = 0.0, dict[str, Fault](), Random(0)
        self.injected: Counter[str] = Counter()
        self.accepted: set[str] | None = None
        self.conditional = True
        self.before: Callable[[Request], Fault | None] = lambda request: None
        self.requests: list[tuple[str, str]] = []
        self.ranges: list[str | None] = []
        self.lock = Lock()

    def at_random(self, rate: float, kinds: Mapping[str, Fault], *, seed: int) -> None:
        """From now on each request meets one of these faults, with this probability."""
        self.rate, self.kinds, self.random = rate, dict(kinds), Random(seed)

    def fault_for(self, request: Request) -> Fault | None:
        with self.lock:
            self.requests.append((request.method, request.path))
            if request.method == "GET":
                self.ranges.append(request.headers.get("Range"))
            if self.faults and request.method in {"GET", "PUT"}:
                return self.faults.popleft()
            if self.accepted is not None and request.access_key not in self.accepted:
                return says(400, "ExpiredToken")
            if not self.conditional and "If-None-Match" in request.headers and request.method == "PUT":
                return says(501, "NotImplemented")
            if self.random.random() < self.rate:
                names = [name for name in self.kinds if suits(name, request)]
                name = min(names, key=lambda name: (self.injected[name], self.random.random()))  # all kinds alike
                self.injected[name] += 1
                return self.kinds[name]
            return self.before(request)

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that go away


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyS3

    def respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = Request(self.command, self.path, self.headers, body)
        fault = self.server.fault_for(request)
        if fault is None:
            self.send(self.store(request))
        else:
            fault(self, request)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = respond  # noqa: N815 - as http.server calls them

    def store(self, request: Request) -> Answer:
        """What the store does; like S3, and unlike the server of the tests, it compares the MD5 of what it gets."""
        told = request.headers.get("Content-MD5")
        if told is not None and base64.b64encode(hashlib.md5(request.body).digest()).decode() != told:
            return error(400, "BadDigest")
        connection = http.client.HTTPConnection(self.server.upstream)
        connection.request(request.method, request.path, request.body, dict(request.headers))
        answer = connection.getresponse()
        whole = Answer(answer.status, tuple(answer.getheaders()), answer.read())
        connection.close()
        return whole

    def send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for key, value in answer.headers:
            if key.lower() not in {"connection", "date", "server", "transfer-encoding"}:
                self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def reset(self) -> None:
        """End the connection as a crash would: by a packet that says so, whatever is still on its way."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def error(status: int, code: str) -> Answer:
    body = ERROR.format(code=code).encode()
    return Answer(status, (("Content-Length", str(len(body))), ("Content-Type", "application/xml")), body)


def says(status: int, code: str) -> Fault:
    """The store is not asked."""
    return lambda handler, _: handler.send(error(status, code))


def breaks_off(after: int) -> Fault:
    """The body ends early."""

    def fault(handler: Handler, request: Request) -> None:
        answer = handler.store(request)
        handler.send(replace(answer, body=answer.body[:after]))
        handler.close_connection = True

    return fault


def stalls(after: int, seconds: float = 60) -> Fault:
    """The body stops for a while, then goes on."""

    def fault(handler: Handler, request: Request) -> None:
        answer = handler.store(request)
        handler.send(replace(answer, body=answer.body[:after]))
        handler.wfile.flush()
        time.sleep(seconds)
        handler.wfile.write(answer.body[after:])

    return fault


def truncates(handler: Handler, request: Request) -> None:
    """Half of the body comes, and an orderly end."""
    answer = handler.store(request)
    handler.send(replace(answer, body=answer.body[: len(answer.body) // 2]))
    handler.close_connection = True


def resets(handler: Handler, request: Request) -> None:
    """The store does what it is asked to; half of its answer comes, or nothing if it has no body."""
    answer = handler.store(request)
    if request.method == "GET" and answer.body:
        handler.send(replace(answer, body=answer.body[: len(answer.body) // 2]))
    handler.reset()


def damages(handler: Handler, request: Request) -> None:
    """One bit of an object is another, on its way to the client or to the store."""
    if request.writes_content:
        handler.send(handler.store(replace(request, body=flipped(request.body))))
    else:
        answer = handler.store(request)
        handler.send(replace(answer, body=flipped(answer.body)) if answer.status < 300 and answer.body else answer)


def flipped(body: bytes) -> bytes:
    """Another bit each time."""
    at, bit = divmod(next(FLIPS) * 7919 % (8 * len(body)), 8)
    return body[:at] + bytes([body[at] ^ 1 << bit]) + body[at + 1 :]


def suits(name: str, request: Request) -> bool:
    """Nobody could notice another bit in a listing: it has no checksum."""
    return name != "damaged" or request.writes_content or request.reads_object


MIXED: dict[str, Fault] = {
    "SlowDown": says(503, "SlowDown"),
    "InternalError": says(500, "InternalError"),
    "reset": resets,
    "truncated": truncates,
    "damaged": damages,
    "stall": stalls(100, 0.5),
    "expired": says(400, "ExpiredToken"),
    "skewed": says(403, "RequestTimeTooSkewed"),
}
"""What passes, of every kind."""


@contextmanager
def faulty_s3(upstream: str, handler: type[Handler] | None = None) -> Iterator[FaultyS3]:
    """A proxy before this store, which listens until the end of the block."""
    with FaultyS3(upstream, handler) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()

"""What S3 does on a bad day, through a proxy that breaks a real server's answers."""

from __future__ import annotations

import http.client
import subprocess
import sys
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest

from engine.errors import StorageError
from engine.storage import Storage, StorageOptions

Answer = tuple[int, list[tuple[str, str]], bytes]
Fault = Callable[["Handler", Answer], None]
"""Sends an answer of the store in some wrong way."""


class FaultyProxy(ThreadingHTTPServer):
    """Forwards to the store; the next answers to GET and PUT meet the faults in ``faults``, then all is well."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = urlsplit(upstream).netloc
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.faults: deque[Fault] = deque()
        self.ranges: list[str | None] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        connection = http.client.HTTPConnection(self.server.upstream)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        whole = (answer.status, answer.getheaders(), answer.read())
        connection.close()
        if self.command == "GET":
            self.server.ranges.append(self.headers.get("Range"))
        if self.command in {"GET", "PUT"} and self.server.faults:
            self.server.faults.popleft()(self, whole)
        else:
            self.answer(*whole)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = forward  # noqa: N815 - as http.server calls them

    def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for key, value in headers:
            if key.lower() not in {"connection", "date", "server", "transfer-encoding"}:
                self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def says(status: int, code: str) -> Fault:
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    headers = [("Content-Length", str(len(body))), ("Content-Type", "application/xml")]
    return lambda handler, _: handler.answer(status, headers, body)


def breaks_off(after: int) -> Fault:
    def fault(handler: Handler, answer: Answer) -> None:
        handler.answer(answer[0], answer[1], answer[2][:after])
        handler.close_connection = True

    return fault


def stalls(after: int) -> Fault:
    def fault(handler: Handler, answer: Answer) -> None:
        handler.answer(answer[0], answer[1], answer[2][:after])
        handler.wfile.flush()
        time.sleep(60)

    return fault


def damages(handler: Handler, answer: Answer) -> None:
    handler.answer(answer[0], answer[1], bytes([answer[2][0] ^ 1]) + answer[2][1:])


@pytest.fixture
def proxy(s3_server: str) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3_server) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def storage(proxy: FaultyProxy) -> Storage:
    return Storage(StorageOptions(endpoint_url=proxy.url))


CONTENT = bytes(range(256)) * 12_000


@pytest.mark.parametrize("code", ["SlowDown", "ServiceUnavailable", "InternalError"])
def test_a_store_that_is_busy_for_a_while_is_waited_for(
    s3: str, proxy: FaultyProxy, storage: Storage, code: str
) -> None:
    proxy.faults.extend([says(503, code), says(503, code)])
    storage.write_bytes(f"{s3}/key", b"content")
    proxy.faults.append(says(503, code))
    assert storage.read_bytes(f"{s3}/key") == b"content"
    assert not proxy.faults


def test_a_store_that_stays_busy_is_given_up_with_a_sentence(
    s3: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    proxy.faults.extend([says(503, "SlowDown")] * 2)
    with pytest.raises(StorageError, match=r"key cannot be read: .* answered SlowDown; .* try again later"):
        Storage(StorageOptions(endpoint_url=proxy.url)).read_bytes(f"{s3}/key")


@pytest.mark.parametrize("after", [0, 1, 1_500_000])
def test_a_read_that_breaks_off_goes_on_where_it_was(
    s3: str, proxy: FaultyProxy, storage: Storage, tmp_path: Path, after: int
) -> None:
    storage.write_bytes(f"{s3}/key", CONTENT)
    proxy.faults.append(breaks_off(after))
    with storage.open(f"{s3}/key") as stream:
        assert stream.read(10) + stream.read() == CONTENT
    assert proxy.ranges == [None, f"bytes={after}-"]
    proxy.faults.append(breaks_off(after))
    assert storage.download(f"{s3}/key", tmp_path / "copy").read_bytes() == CONTENT


def test_a_read_that_always_breaks_off_ends_with_a_sentence_and_no_file(
    s3: str, proxy: FaultyProxy, storage: Storage, tmp_path: Path
) -> None:
    storage.write_bytes(f"{s3}/key", CONTENT)
    proxy.faults.extend([breaks_off(1000), *[breaks_off(0)] * 5])
    with pytest.raises(StorageError, match=r"key broke off at byte 1000 of 3072000 at each of 6 attempts"):
        storage.download(f"{s3}/key", tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_an_object_that_is_overwritten_while_it_is_read_is_not_mixed(
    s3: str, proxy: FaultyProxy, storage: Storage
) -> None:
    storage.write_bytes(f"{s3}/key", CONTENT)
    proxy.faults.append(breaks_off(2_000_000))
    with storage.open(f"{s3}/key") as stream:
        stream.read(10)
        storage.write_bytes(f"{s3}/key", CONTENT[::-1])
        with pytest.raises(StorageError, match="key was overwritten while it was read"):
            stream.read()


def test_damaged_content_is_read_anew(s3: str, proxy: FaultyProxy, storage: Storage, tmp_path: Path) -> None:
    import boto3

    boto3.client("s3").put_object(Bucket=s3[5:], Key="key", Body=b"content", ChecksumAlgorithm="CRC32")
    proxy.faults.extend([damages, damages])
    assert storage.read_bytes(f"{s3}/key") == b"content"
    proxy.faults.append(damages)
    assert storage.download(f"{s3}/key", tmp_path / "copy").read_bytes() == b"content"
    proxy.faults.append(damages)
    with storage.open(f"{s3}/key") as stream, pytest.raises(StorageError, match="key cannot be read: it came damaged"):
        stream.read()


@pytest.mark.parametrize(
    ("status", "code", "advice"),
    [
        (403, "AccessDenied", "check the policies"),
        (400, "ExpiredToken", "have expired: renew them"),
        (403, "RequestTimeTooSkewed", "clock is wrong"),
        (400, "AuthorizationHeaderMalformed", "lies in another region: set storage.region"),
        (403, "InvalidObjectState", "archived"),
        (418, "Teapot", "answered Teapot: no"),
    ],
)
def test_a_refusal_says_what_to_do(
    s3: str, proxy: FaultyProxy, storage: Storage, status: int, code: str, advice: str
) -> None:
    storage.write_bytes(f"{s3}/key", b"content")
    proxy.faults.append(says(status, code))
    with pytest.raises(StorageError, match=rf"^{s3}/key cannot be read: .*{advice}"):
        storage.read_bytes(f"{s3}/key")


@pytest.fixture
def user(s3: str, s3_server: str) -> Iterator[dict[str, str]]:
    """Keys of a user whom no policy allows anything, while the server checks signatures and policies."""
    import boto3

    def checks_after(requests: int) -> None:
        url, headers = f"{s3_server}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(url, str(requests).encode(), headers)).close()

    iam, name = boto3.client("iam"), s3[5:]
    iam.create_user(UserName=name)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    checks_after(0)
    yield {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
    checks_after(10**9)


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        ({"AWS_ACCESS_KEY_ID": "unknown"}, "access key is unknown .* check AWS_ACCESS_KEY_ID"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "secret key is wrong: check AWS_SECRET_ACCESS_KEY"),
        ({}, "access is denied: these credentials may not do it"),
    ],
)
def test_credentials_that_do_not_do_are_told_apart(
    s3: str, user: dict[str, str], monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str], advice: str
) -> None:
    for variable, value in (user | wrong).items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(StorageError, match=f"^{s3}/key cannot be read: .*{advice}") as error:
        Storage().read_bytes(f"{s3}/key")
    assert user["AWS_SECRET_ACCESS_KEY"] not in str(error.value)
    with pytest.raises(StorageError, match=f"^{s3}/key cannot be looked at: access is denied"):
        Storage().exists(f"{s3}/key")


@pytest.mark.parametrize("size", [3_072_000, 20 << 20])
def test_a_download_that_is_killed_leaves_no_half_file(
    s3: str, proxy: FaultyProxy, storage: Storage, tmp_path: Path, size: int
) -> None:
    storage.write_bytes(f"{s3}/key", bytes(size))
    proxy.faults.extend([stalls(1_000_000)] * 9)
    script = (
        "import sys; from pathlib import Path; from engine.storage import *\n"
        "Storage(StorageOptions(endpoint_url=sys.argv[1])).download(sys.argv[2], Path(sys.argv[3]))"
    )
    command = [sys.executable, "-c", script, proxy.url, f"{s3}/key", str(tmp_path / "copy")]
    with subprocess.Popen(command) as process:
        try:
            deadline = time.monotonic() + 30
            while not any(path.stat().st_size for path in tmp_path.iterdir()):
                assert time.monotonic() < deadline, "nothing came"
                time.sleep(0.05)
        finally:
            process.kill()
    assert not (tmp_path / "copy").exists()
    assert list(storage.list(str(tmp_path))) == []
    proxy.faults.clear()
    assert storage.download(f"{s3}/key", tmp_path / "copy").stat().st_size == size

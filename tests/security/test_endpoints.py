"""A store of somebody's own cannot send us elsewhere: redirects are not followed, whatever they say."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from engine.errors import ConfigError, StorageError
from engine.storage import Storage, StorageOptions


class Server(ThreadingHTTPServer):
    """Answers every request with a status and headers, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.headers, self.body = status, headers, body
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def answer(self) -> None:
        self.server.asked.append(f"{self.command} {self.path} {self.headers.get('Authorization', '')}")
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 - as http.server calls them

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def inside() -> Iterator[Server]:
    """A service of the cluster that tenants must not reach through us."""
    with Server(200, {}, b"secret") as server:
        yield server
        server.shutdown()


def test_a_page_of_a_proxy_is_no_empty_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else there would be no checkpoint to go on from, and nothing published."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    with Server(200, {"Content-Type": "text/html"}, b"<html><body>please log in</body></html>") as proxy:
        storage = Storage(StorageOptions(endpoint_url=proxy.url, region="us-east-1"))
        with pytest.raises(StorageError, match="not from an object store, but perhaps from a proxy"):
            list(storage.list("s3://b/k"))
        proxy.shutdown()


MOVED = b"<Error><Code>PermanentRedirect</Code><Endpoint>%s</Endpoint><Bucket>b</Bucket></Error>"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("verb", ["read", "write", "list", "head"])
def test_a_redirect_is_not_followed(inside: Server, monkeypatch: pytest.MonkeyPatch, status: int, verb: str) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    host = inside.url.removeprefix("http://")
    headers = {"Location": f"{inside.url}/latest/meta-data", "x-amz-bucket-region": "eu-west-1"}
    with Server(status, headers, MOVED % host.encode()) as store:
        storage = Storage(StorageOptions(endpoint_url=store.url, region="us-east-1"))
        ask = {
            "read": lambda: storage.read_bytes("s3://b/k"),
            "write": lambda: storage.write_bytes("s3://b/k", b"x"),
            "list": lambda: list(storage.list("s3://b/k")),
            "head": lambda: storage.exists("s3://b/k"),
        }[verb]
        with pytest.raises(StorageError):
            ask()
        assert store.asked
        store.shutdown()
    assert inside.asked == []


SIGNATURE = "PLANTEDsignature0000"


@pytest.mark.parametrize("mark", ["?", "#"])
def test_an_endpoint_with_a_signature_is_refused_without_repeating_it(mark: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        Storage(StorageOptions(endpoint_url=f"https://s3.example.com/{mark}X-Amz-Signature={SIGNATURE}"))
    assert SIGNATURE not in str(refusal.value)


def test_a_signed_url_in_place_of_a_uri_is_refused_without_its_signature() -> None:
    with pytest.raises(ConfigError) as refusal:
        Storage().read_bytes(f"https://b.s3.example.com/k?X-Amz-Signature={SIGNATURE}")
    assert SIGNATURE not in str(refusal.value)

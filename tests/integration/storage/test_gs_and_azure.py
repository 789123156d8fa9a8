"""``gs://`` and ``az://``: what the suite for all stores does not ask of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import boto3
import pytest
from cloud_stores import unsigned_key
from faulty_s3 import Fault, FaultyS3, Request, breaks_off, resets, says

from engine.errors import ConfigError, StorageError
from engine.storage import ChangedError, NotFoundError, Storage, StorageOptions, join
from engine.storage.gs_azure_stores import AZURE, GOOGLE, credentials
from engine.storage.publication import Publication


@pytest.fixture(params=["gs", "az"])
def root(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def no_identity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("engine.storage.gs_azure_stores.METADATA_TRIES", 1)
    for variable in (*GOOGLE, *AZURE):
        monkeypatch.delenv(variable, raising=False)


def test_conditional_writes_are_honoured(root: str) -> None:
    storage = Storage()
    assert storage.honours_conditions(join(root, "attempts"))
    assert list(storage.list(root)) == []


def test_of_two_attempts_one_is_published_whole(root: str, tmp_path: Path) -> None:
    won = []
    for number in range(2):
        file = tmp_path / str(number)
        file.write_text(str(number))
        won.append(Publication(root, "sam", storage=Storage()).publish({"sam/a": file, "sam/result.json": file}))
    storage = Storage()
    assert won == [True, False]
    assert storage.read_bytes(f"{root}/sam/a") == storage.read_bytes(f"{root}/sam/result.json") == b"0"


def test_a_large_object_goes_in_parts_and_comes_back(root: str, tmp_path: Path) -> None:
    storage, content = Storage(), os.urandom(17 << 20)
    (tmp_path / "big").write_bytes(content)
    storage.upload(tmp_path / "big", f"{root}/big.bin")
    storage.copy(f"{root}/big.bin", f"{root}/copy.bin")
    assert storage.download(f"{root}/copy.bin", tmp_path / "back").read_bytes() == content
    with storage.open(f"{root}/big.bin") as stream:
        assert stream.read() == content


def test_an_object_that_has_changed_since_it_was_listed_is_not_taken(root: str, tmp_path: Path) -> None:
    storage = Storage()
    storage.write_bytes(f"{root}/a", b"first")
    (item,) = storage.list(root)
    found = storage.head(item.uri)
    assert found is not None
    assert found.etag == item.etag
    assert storage.download(item.uri, tmp_path / "a", etag=item.etag).read_bytes() == b"first"
    storage.write_bytes(f"{root}/a", b"other")
    with pytest.raises(ChangedError, match="has changed since it was listed"):
        storage.download(item.uri, tmp_path / "a", etag=item.etag)


@pytest.mark.parametrize("key", ["a//b", "/a", "a/../b", "./a"])
def test_a_key_that_would_be_taken_for_another_is_refused(root: str, key: str) -> None:
    with pytest.raises(ConfigError, match="between its slashes a part is empty"):
        Storage().read_bytes(f"{root}/{key}")


@pytest.mark.parametrize("uri", ["gs://", "gs:///key", "gs://bucket", "gs://bucket/folder/"])
def test_what_names_no_object_is_refused(gs: str, uri: str) -> None:
    with pytest.raises(ConfigError, match="write gs://bucket/key"):
        Storage().read_bytes(uri)


def test_empty_objects_that_stand_for_folders_are_not_listed(gs: str) -> None:
    client, bucket = boto3.client("s3"), gs.removeprefix("gs://")
    keys = ["images/", "images/a/", "images/a-1.png", "images/a/2.png", "images/empty", "images/empty.txt", "images/z"]
    for key in keys:
        filled = b"" if key.endswith("/") or "empty" in key else b"x"
        client.put_object(Bucket=bucket, Key=key, Body=filled)
    found = [item.key for item in Storage().list(f"{gs}/images")]
    assert found == ["a-1.png", "a/2.png", "empty", "empty.txt", "z"]


def test_what_passes_is_tried_again(gs: str, google: FaultyS3, tmp_path: Path) -> None:
    storage, content = Storage(), os.urandom(1 << 20)
    google.faults.extend([says(503, "SlowDown"), says(500, "InternalError")])
    storage.write_bytes(f"{gs}/a", content)
    google.faults.extend([says(503, "SlowDown"), breaks_off(1000)])
    assert storage.download(f"{gs}/a", tmp_path / "a").read_bytes() == content
    google.faults.append(breaks_off(5))
    with storage.open(f"{gs}/a") as stream:
        assert stream.read() == content


def test_a_write_whose_answer_was_lost_is_not_taken_for_another_s(gs: str, google: FaultyS3) -> None:
    google.faults.append(resets)
    Storage().write_bytes(f"{gs}/commit.json", b"mine", only_if_absent=True)
    assert Storage().read_bytes(f"{gs}/commit.json") == b"mine"


def test_an_upload_in_parts_survives_a_connection_that_breaks_as_it_begins(
    gs: str, google: FaultyS3, tmp_path: Path
) -> None:
    broken: list[str] = []

    def once(request: Request) -> Fault | None:
        if request.method != "POST" or broken:
            return None
        broken.append(request.path)
        return resets

    google.before, content = once, os.urandom(17 << 20)
    (tmp_path / "big").write_bytes(content)
    Storage().upload(tmp_path / "big", f"{gs}/big")
    assert len(broken) == 1
    assert Storage().read_bytes(f"{gs}/big") == content


def test_whoever_pays_is_named(gs: str, google: FaultyS3) -> None:
    seen: list[str | None] = []
    google.before = lambda request: seen.append(request.headers.get("x-goog-user-project"))
    Storage(StorageOptions(google_project="team-a")).write_bytes(f"{gs}/a", b"")
    assert seen == ["team-a"]


def test_a_missing_bucket_is_named(root: str) -> None:
    scheme = root[:5]
    with pytest.raises(
        NotFoundError, match=f"{scheme}no-such-bucket-here/x cannot be written: the bucket does not exist"
    ):
        Storage().write_bytes(f"{scheme}no-such-bucket-here/x", b"")


def test_a_wrong_key_is_a_refusal_and_not_repeated(az: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = "d3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmc="
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", wrong)
    with pytest.raises(StorageError, match=r"access is denied .* Storage Blob Data Contributor") as raised:
        Storage().read_bytes(f"{az}/x")
    assert wrong not in str(raised.value)


def test_a_signature_in_a_url_is_not_repeated(az: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
    monkeypatch.setenv(
        "AZURE_STORAGE_SAS_TOKEN", "sv=2021-12-02&sr=c&sp=r&se=2020-01-01T00:00:00Z&sig=c2VjcmV0c2VjcmV0"
    )
    with pytest.raises(StorageError, match="access is denied") as raised:
        Storage().read_bytes(f"{az}/x")
    assert "c2VjcmV0" not in str(raised.value)


def test_a_container_without_an_account_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    for variable in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ConfigError, match=r"set storage\.azureAccount"):
        Storage().read_bytes("az://container/x")


@pytest.mark.usefixtures("no_identity")
@pytest.mark.parametrize(("uri", "advice"), [("gs://b/x", "gcloud auth"), ("az://b/x", "AZURE_STORAGE_ACCOUNT_KEY")])
def test_a_machine_without_an_identity_says_what_to_set(uri: str, advice: str) -> None:
    assert credentials(uri[:5]) is None
    with pytest.raises(StorageError, match=f"no credentials found for {uri[:5]}.*{advice}"):
        Storage(StorageOptions(azure_account="account")).read_bytes(uri)


@pytest.mark.parametrize("url", ["http://169.254.169.254", "http://metadata.google.internal", "ftp://store"])
def test_endpoints_are_guarded(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", unsigned_key(url))
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", url)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    for uri in ("gs://bucket/x", "az://container/x"):
        with pytest.raises(ConfigError, match="the endpoint"):
            Storage(StorageOptions(azure_account="account")).read_bytes(uri)


class Elsewhere(ThreadingHTTPServer):
    """Sends everybody to another address, and answers there.

    Attributes:
        seen: The credentials that came with each request, by path.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Redirects)
        self.seen: dict[str, str | None] = {}


class Redirects(BaseHTTPRequestHandler):
    server: Elsewhere

    def do_GET(self) -> None:
        self.server.seen[self.path] = self.headers.get("Authorization")
        self.send_response(302 if self.path != "/elsewhere" else 404)
        self.send_header("Location", f"http://localhost:{self.server.server_port}/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    with Elsewhere() as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def test_a_store_that_sends_us_elsewhere_gets_no_credentials_there(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"http://127.0.0.1:{elsewhere.server_port}")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    with pytest.raises(StorageError):
        Storage(StorageOptions(azure_account="account")).read_bytes("az://container/x")
    (asked,) = [said for path, said in elsewhere.seen.items() if path != "/elsewhere"]
    assert asked is not None
    assert elsewhere.seen.get("/elsewhere") is None


def test_storage_is_imported_without_obstore() -> None:
    script = "import sys, engine.storage; sys.exit('obstore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0

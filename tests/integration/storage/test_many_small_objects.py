"""Downloads of many small objects: one request each, retries, checksums, rotated credentials, no redirects."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from faulty_s3 import MIXED, Fault, FaultyS3, Handler, Request, breaks_off, faulty_s3, resets, says, stalls

from engine.dataset import CocoImage, ImageFolder
from engine.errors import StorageError
from engine.storage import NotFoundError, Storage, StorageOptions

CONTENT = bytes(range(256)) * 40


pytestmark = pytest.mark.usefixtures("short_pauses")


@pytest.fixture
def storage(s3: str, proxy: FaultyS3, tmp_path: Path) -> Storage:
    """One that has fetched an object of the bucket."""
    storage = Storage(StorageOptions(endpoint_url=proxy.url))
    storage.write_bytes(f"{s3}/in/first", CONTENT)
    storage.download(f"{s3}/in/first", tmp_path / "first")
    proxy.requests.clear()
    return storage


def images(count: int) -> list[CocoImage]:
    return [CocoImage(n, f"{n}.jpg", 0, 0) for n in range(count)]


def test_each_object_takes_one_request(s3: str, proxy: FaultyS3, storage: Storage, tmp_path: Path) -> None:
    for number in range(40):
        storage.write_bytes(f"{s3}/in/ü {number}+", bytes([number]) * number)
    proxy.requests.clear()
    storage.download_folder(f"{s3}/in", tmp_path / "copy")
    assert Counter(method for method, _ in proxy.requests) == {"GET": 42}
    assert [(tmp_path / "copy" / f"ü {n}+").read_bytes() for n in range(40)] == [bytes([n]) * n for n in range(40)]
    (item,) = (item for item in storage.list(f"{s3}/in") if item.key == "first")
    assert (tmp_path / "copy" / "first").stat().st_mtime_ns == item.modified_ns


@pytest.mark.parametrize("name", MIXED)
def test_what_passes_costs_no_object(s3: str, proxy: FaultyS3, storage: Storage, tmp_path: Path, name: str) -> None:
    proxy.faults.extend([MIXED[name]] * 3)
    assert storage.download(f"{s3}/in/first", tmp_path / "copy").read_bytes() == CONTENT
    assert not proxy.faults or name == "stall"  # which is waited for


def test_attempts_are_counted_and_told(
    s3: str, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    monkeypatch.setattr("engine.storage.SAY_EVERY", 0.0)
    said: list[str] = []
    storage = Storage(StorageOptions(endpoint_url=proxy.url), on_retry=said.append)
    storage.write_bytes(f"{s3}/first", CONTENT)
    storage.download(f"{s3}/first", tmp_path / "copy")
    proxy.requests.clear()
    proxy.before = lambda _: says(503, "SlowDown")
    with pytest.raises(StorageError, match=r"first cannot be read: .* answered SlowDown; .* try again later"):
        storage.download(f"{s3}/first", tmp_path / "copy")
    assert said == [f"{s3}/first answered SlowDown: attempt {n} of 3" for n in (2, 3)]
    assert len(proxy.requests) == 3


def test_a_store_that_stalls_is_asked_again(
    s3: str, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("engine.storage.s3.READ_TIMEOUT", 0.5)
    storage = Storage(StorageOptions(endpoint_url=proxy.url))
    storage.write_bytes(f"{s3}/first", CONTENT)
    for _ in range(2):
        assert storage.download(f"{s3}/first", tmp_path / "copy").read_bytes() == CONTENT
        proxy.faults.append(stalls(1_000, 20))
    assert storage.download(f"{s3}/first", tmp_path / "copy").read_bytes() == CONTENT


def test_damage_is_noticed_where_the_etag_is_no_md5(s3: str, proxy: FaultyS3, storage: Storage, tmp_path: Path) -> None:
    import boto3

    boto3.client("s3").put_object(Bucket=s3[5:], Key="in/key", Body=CONTENT, ChecksumAlgorithm="CRC32")

    def by_key_of_ones_own(handler: Handler, request: Request) -> None:
        MIXED["damaged"](Encrypted(handler), request)

    proxy.faults.extend([by_key_of_ones_own] * 2)
    assert storage.download(f"{s3}/in/key", tmp_path / "copy").read_bytes() == CONTENT
    assert not proxy.faults


class Encrypted:
    """A handler whose answers say that the user's own key encrypts the object."""

    def __init__(self, handler: Handler) -> None:
        self.handler, self.store = handler, handler.store

    def send(self, answer: Any) -> None:
        headers = (*answer.headers, ("x-amz-server-side-encryption", "aws:kms"))
        self.handler.send(SimpleNamespace(status=answer.status, headers=headers, body=answer.body))


def test_connections_that_the_store_has_ended_are_not_used_again(
    s3: str, proxy: FaultyS3, storage: Storage, tmp_path: Path
) -> None:
    for _ in range(3):
        proxy.faults.append(breaks_off(len(CONTENT)))  # all of it, and the end
        storage.download(f"{s3}/in/first", tmp_path / "copy")
        time.sleep(0.05)
    assert len(proxy.requests) == 3


def test_a_redirect_is_not_followed(s3: str, proxy: FaultyS3, storage: Storage, tmp_path: Path) -> None:
    with faulty_s3(proxy.url) as inside:

        def moved(handler: Handler, request: Request) -> None:
            handler.send_response(307)
            handler.send_header("Location", f"{inside.url}{request.path}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        proxy.before = lambda _: moved
        with pytest.raises(StorageError):
            storage.download(f"{s3}/in/first", tmp_path / "copy")
        assert inside.requests == []
    assert not (tmp_path / "copy").exists()


def test_what_is_not_there_or_not_allowed_is_distinguished_by_name(
    s3: str, proxy: FaultyS3, storage: Storage, tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError, match=f"{s3}/in/gone does not exist"):
        storage.download(f"{s3}/in/gone", tmp_path / "copy")
    storage.download(f"{s3}/in/first", tmp_path / "copy")
    proxy.before = lambda _: says(403, "AccessDenied")
    with pytest.raises(StorageError, match=f"{s3}/in/first cannot be read: access is denied"):
        storage.download(f"{s3}/in/first", tmp_path / "copy")


def test_keys_that_rotate_are_read_anew(
    s3: str, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def keys(name: str) -> None:
        (tmp_path / "keys").write_text(f"[default]\naws_access_key_id={name}\naws_secret_access_key=secret\n")
        proxy.accepted = {name}

    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    keys("FIRST")
    storage = Storage(StorageOptions(endpoint_url=proxy.url))
    for number in range(20):
        storage.write_bytes(f"{s3}/in/{number}", CONTENT)
    storage.download_folder(f"{s3}/in", tmp_path / "copy")
    keys("SECOND")
    storage.download_folder(f"{s3}/in", tmp_path / "again")
    assert len(list((tmp_path / "again").iterdir())) == 20


def test_images_are_given_while_others_are_on_their_way(
    s3: str, proxy: FaultyS3, storage: Storage, tmp_path: Path
) -> None:
    for number in range(4):
        storage.write_bytes(f"{s3}/in/{number}.jpg", CONTENT)
    go = Event()

    def held(handler: Handler, request: Request) -> None:
        go.wait(60)
        handler.send(handler.store(request))

    def choose(request: Request) -> Fault | None:
        return held if request.path.endswith("/2.jpg") else None

    proxy.before = choose
    folder = ImageFolder(f"{s3}/in", storage=storage, cache=tmp_path / "cache")
    wanted = [*images(4), CocoImage(9, "2.jpg", 0, 0)]
    with closing(folder.bring(wanted)) as brought:
        assert {next(brought) for _ in range(3)} == {0, 1, 3}
        go.set()
        assert list(brought) == [2, 4]


def test_a_sync_that_was_interrupted_fetches_what_is_missing(
    s3: str, proxy: FaultyS3, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        storage.write_bytes(f"{s3}/in/{number}.jpg", bytes([number]))
    proxy.before = lambda request: says(403, "AccessDenied") if request.path.endswith("/17.jpg") else None
    folder = ImageFolder(f"{s3}/in", storage=storage, cache=tmp_path / "cache")
    with pytest.raises(StorageError, match=r"in/17\.jpg cannot be read: access is denied"):
        folder.sync(images(30))
    there = {image.id for image in images(30) if folder.path(image).exists()}
    assert 0 < len(there) < 30
    proxy.before = lambda _: None
    proxy.requests.clear()
    ImageFolder(f"{s3}/in", storage=storage, cache=tmp_path / "cache").sync(images(30))
    fetched = {path.rpartition("/")[2] for method, path in proxy.requests if path.endswith(".jpg")}
    assert fetched == {f"{n}.jpg" for n in range(30) if n not in there}
    assert [folder.path(image).read_bytes() for image in images(30)] == [bytes([n]) for n in range(30)]


def test_a_broken_connection_ends_no_sync(s3: str, proxy: FaultyS3, storage: Storage, tmp_path: Path) -> None:
    for number in range(60):
        storage.write_bytes(f"{s3}/in/{number}.jpg", bytes([number]) * 1000)
    proxy.at_random(0.2, {"reset": resets, "SlowDown": says(503, "SlowDown")}, seed=1)
    folder = ImageFolder(f"{s3}/in", storage=storage, cache=tmp_path / "cache")
    folder.sync(images(60))
    assert [folder.path(image).read_bytes()[:1] for image in images(60)] == [bytes([n]) for n in range(60)]

"""One suite for both kinds of store: a real S3 server process, and the file system."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from engine.errors import ConfigError, DataError, StorageError
from engine.storage import ExistsError, NotFoundError, Storage, StorageOptions, TransferProgress, join


@pytest.fixture(params=["s3", "file"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return str(request.getfixturevalue("s3"))
    (tmp_path / "store").mkdir()
    return f"file://{tmp_path / 'store'}"


@pytest.fixture
def storage() -> Storage:
    return Storage(StorageOptions())


AWKWARD = ["plain.txt", "with space.txt", "plus+and#hash%20.txt", "ünïcödé/日本.txt", "deep/er/still.bin", "a&b=c?.txt"]


@pytest.mark.parametrize("key", AWKWARD)
def test_what_is_written_is_read_and_listed(root: str, storage: Storage, key: str) -> None:
    uri = join(root, "folder", key)
    if root.startswith("file://") and "%" in key:
        uri = uri.replace("%", "%25")  # a file:// URI is percent-encoded
    storage.write_bytes(uri, b"content", content_type="text/plain")
    assert storage.exists(uri)
    assert storage.read_bytes(uri) == b"content"
    with storage.open(uri) as stream:
        assert (stream.read(3), stream.read()) == (b"con", b"tent")
    (item,) = storage.list(join(root, "folder"))
    assert (item.key, item.size) == (key, 7)


def test_a_folder_is_not_its_neighbour_of_longer_name(root: str, storage: Storage) -> None:
    storage.write_bytes(join(root, "images", "1"), b"a")
    storage.write_bytes(join(root, "images2", "2"), b"b")
    for folder in (join(root, "images"), join(root, "images") + "/"):
        assert [item.key for item in storage.list(folder)] == ["1"]
    assert storage.is_prefix(join(root, "images"))
    assert not storage.is_prefix(join(root, "image"))


def test_a_missing_object_is_told_from_other_failures(root: str, storage: Storage, tmp_path: Path) -> None:
    uri = join(root, "no", "such.json")
    assert not storage.exists(uri)
    assert list(storage.list(join(root, "no"))) == []
    with pytest.raises(NotFoundError, match=r"no/such.json is not there"):
        storage.read_bytes(uri)
    with pytest.raises(NotFoundError, match=r"no/such.json"):
        storage.download(uri, tmp_path / "here" / "x")
    assert list((tmp_path / "here").iterdir()) == []
    storage.delete(uri)


def test_an_object_is_written_once_if_so_wanted(root: str, storage: Storage) -> None:
    uri = join(root, "once")
    storage.write_bytes(uri, b"first", only_if_absent=True)
    with pytest.raises(ExistsError, match="once"):
        storage.write_bytes(uri, b"second", only_if_absent=True)
    assert storage.read_bytes(uri) == b"first"
    storage.write_bytes(uri, b"third")
    assert storage.read_bytes(uri) == b"third"


def test_folders_go_up_and_come_down_whole(root: str, storage: Storage, tmp_path: Path) -> None:
    source = tmp_path / "source"
    contents = {f"d{i % 3}/{i}.bin": os.urandom(i) for i in range(40)}
    for key, content in contents.items():
        (source / key).parent.mkdir(parents=True, exist_ok=True)
        (source / key).write_bytes(content)
    told: list[TransferProgress] = []
    uris = storage.upload_folder(source, join(root, "up"), on_progress=told.append)
    assert len(uris) == 40
    assert told[-1] == TransferProgress(objects=40, objects_total=40, bytes=sum(range(40)))
    storage.download_folder(join(root, "up"), tmp_path / "down")
    down = {p.relative_to(tmp_path / "down").as_posix(): p.read_bytes() for p in (tmp_path / "down").rglob("*.bin")}
    assert down == contents


def test_one_failure_stops_a_transfer_of_many(root: str, storage: Storage, tmp_path: Path) -> None:
    storage.write_bytes(join(root, "there"), b"x")
    pairs = [(join(root, "there"), tmp_path / str(i)) for i in range(20)]
    pairs.insert(3, (join(root, "missing"), tmp_path / "missing"))
    with pytest.raises(NotFoundError, match="missing"):
        storage.download_many(pairs)


def test_a_folder_of_more_than_a_page_is_listed_whole(s3: str, storage: Storage, tmp_path: Path) -> None:
    for i in range(1003):
        (tmp_path / f"{i:04d}").touch()
    storage.upload_folder(tmp_path, f"{s3}/many")
    assert [item.key for item in storage.list(f"{s3}/many")] == [f"{i:04d}" for i in range(1003)]


def test_a_large_object_goes_in_parts(s3: str, storage: Storage, tmp_path: Path) -> None:
    content = os.urandom(20 << 20)
    (tmp_path / "big").write_bytes(content)
    storage.upload(tmp_path / "big", f"{s3}/big")
    (item,) = storage.list(s3)
    assert "-" in item.etag  # a multipart upload
    assert storage.read_bytes(f"{s3}/big") == content


def test_a_client_serves_many_threads(s3: str, storage: Storage) -> None:
    failures: list[Exception] = []

    def work(number: int) -> None:
        try:
            for i in range(5):
                storage.write_bytes(f"{s3}/{number}/{i}", bytes([number]))
                assert storage.read_bytes(f"{s3}/{number}/{i}") == bytes([number])
        except Exception as error:  # noqa: BLE001 - told by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_missing_bucket_is_named(s3: str, storage: Storage) -> None:
    with pytest.raises(NotFoundError, match=r"s3://no-such-bucket-here/x cannot be written: .* no such bucket"):
        storage.write_bytes("s3://no-such-bucket-here/x", b"")


def test_no_credentials_are_said_with_what_to_do(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(StorageError, match=r"no credentials .* set AWS_ACCESS_KEY_ID"):
        Storage(StorageOptions()).read_bytes(f"{s3}/x")


def test_an_endpoint_that_nobody_serves_is_named(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.storage.s3.ATTEMPTS", 2)
    with pytest.raises(StorageError, match=r"http://127.0.0.1:9 cannot be reached"):
        Storage(StorageOptions(endpoint_url="http://127.0.0.1:9")).read_bytes("s3://bucket/key")


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_an_endpoint_of_the_environment_is_guarded_too(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "http://169.254.169.254")
    with pytest.raises(ConfigError, match="metadata service"):
        Storage(StorageOptions()).read_bytes("s3://bucket/key")


@pytest.mark.parametrize("uri", ["s3://", "s3:///key", "gs://bucket/key", "s3://bucket", "s3://bucket/folder/"])
def test_what_names_no_object_is_refused(s3: str, storage: Storage, uri: str) -> None:
    with pytest.raises(ConfigError, match="write s3://"):
        storage.read_bytes(uri)


def test_a_write_that_the_disk_refuses_is_a_sentence(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"is a file, not a folder|is there already"):
        storage.write_bytes(str(tmp_path / "file" / "below"), b"")
    with pytest.raises(StorageError, match="it is a folder, not a file"):
        storage.read_bytes(str(tmp_path))


def test_keys_that_lead_out_of_the_folder_are_refused(s3: str, storage: Storage, tmp_path: Path) -> None:
    storage.write_bytes(f"{s3}/up/..\\..\\evil", b"x")
    with pytest.raises(DataError, match="leads out of its folder"):
        storage.download_folder(f"{s3}/up", tmp_path)

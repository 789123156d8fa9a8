"""One suite for every kind of store: real server processes of S3, Google and Azure, and the file system."""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from engine.errors import ConfigError, DataError, StorageError
from engine.storage import ExistsError, NotFoundError, Progress, Storage, StorageOptions, join, name
from engine.storage.transfer import each_done


@pytest.fixture(params=["s3", "gs", "az", "file"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param != "file":
        return str(request.getfixturevalue(request.param))
    (tmp_path / "store").mkdir()
    return f"file://{tmp_path / 'store'}"


@pytest.fixture
def storage() -> Storage:
    return Storage(StorageOptions())


AWKWARD = ["plain.txt", "with space.txt", "plus+and#hash%20.txt", "ünïcödé/日本.txt", "deep/er/still.bin", "a&b=c?.txt"]


@pytest.mark.parametrize("key", AWKWARD)
def test_what_is_written_is_read_and_listed(root: str, storage: Storage, key: str) -> None:
    uri = join(root, "folder", key)
    storage.write_bytes(uri, b"content", content_type="text/plain")
    assert storage.exists(uri)
    assert storage.read_bytes(uri) == b"content"
    with storage.open(uri) as stream:
        assert (stream.read(3), stream.read()) == (b"con", b"tent")
    (item,) = storage.list(join(root, "folder"))
    assert (item.uri, item.key, item.size) == (uri, key, 7)
    assert name(item.uri) == key.rpartition("/")[2]
    storage.delete(item.uri)
    assert not storage.exists(uri)


def test_keys_come_in_the_same_order_from_every_store(root: str, storage: Storage) -> None:
    keys = ["a-b", "a.txt", "a/x", "a/y/z", "a0", "b", "ä"]
    for key in reversed(keys):
        storage.write_bytes(join(root, key), b"")
    assert [item.key for item in storage.list(root)] == keys


def test_a_folder_is_not_its_neighbour_of_longer_name(root: str, storage: Storage) -> None:
    storage.write_bytes(join(root, "images", "1"), b"a")
    storage.write_bytes(join(root, "images2", "2"), b"b")
    for folder in (join(root, "images"), join(root, "images") + "/"):
        assert [item.key for item in storage.list(folder)] == ["1"]
    assert storage.is_prefix(join(root, "images"))
    assert not storage.is_prefix(join(root, "image"))


def test_a_folder_that_comes_and_goes_is_listed_as_what_there_is(tmp_path: Path, storage: Storage) -> None:
    folder, seen = tmp_path / "folder", set()
    with ThreadPoolExecutor(1) as pool:

        def comes_and_goes() -> None:
            for _ in range(4000):
                folder.mkdir()
                folder.rmdir()

        going = pool.submit(comes_and_goes)
        while not going.done():
            seen.update(storage.list(str(folder)))
        going.result()
    assert not seen


def test_a_missing_object_is_distinguished_from_other_failures(root: str, storage: Storage, tmp_path: Path) -> None:
    uri = join(root, "no", "such.json")
    assert not storage.exists(uri)
    assert list(storage.list(join(root, "no"))) == []
    with pytest.raises(NotFoundError, match=r"no/such.json does not exist"):
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


def test_a_copy_is_an_object_of_its_own(root: str, storage: Storage) -> None:
    source, copy = join(root, "a", "source"), join(root, "b", "copy")
    storage.write_bytes(source, b"first")
    storage.write_bytes(copy, b"is replaced")
    for _ in range(2):
        storage.copy(source, copy)
    assert storage.read_bytes(copy) == b"first"
    storage.write_bytes(source, b"second")
    storage.delete(source)
    assert storage.read_bytes(copy) == b"first"
    with pytest.raises(NotFoundError, match="a/source does not exist"):
        storage.copy(source, copy)


def test_a_disk_without_hard_links_does(tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuses)
    test_an_object_is_written_once_if_so_wanted(str(tmp_path), storage)
    test_a_copy_is_an_object_of_its_own(str(tmp_path), storage)


def test_folders_go_up_and_come_down_whole(root: str, storage: Storage, tmp_path: Path) -> None:
    source = tmp_path / "source"
    contents = {f"d{i % 3}/{i}.bin": os.urandom(i) for i in range(40)}
    for key, content in contents.items():
        (source / key).parent.mkdir(parents=True, exist_ok=True)
        (source / key).write_bytes(content)
    told: list[Progress] = []
    uris = storage.upload_folder(source, join(root, "up"), on_progress=told.append)
    assert len(uris) == 40
    assert told[-1] == Progress(objects=40, bytes=sum(range(40)), objects_total=40, bytes_total=sum(range(40)))
    storage.download_folder(join(root, "up"), tmp_path / "down")
    down = {p.relative_to(tmp_path / "down").as_posix(): p.read_bytes() for p in (tmp_path / "down").rglob("*.bin")}
    assert down == contents


def test_a_folder_that_is_not_there_is_not_copied_as_an_empty_one(root: str, storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="the folder does not exist"):
        storage.upload_folder(tmp_path / "none", join(root, "up"))
    with pytest.raises(StorageError, match="none: it does not exist"):
        storage.upload(tmp_path / "none", join(root, "up", "none"))


def test_what_was_downloaded_is_not_fetched_again_unless_it_changed(
    root: str, storage: Storage, tmp_path: Path
) -> None:
    uris = [join(root, "data", str(i)) for i in range(3)]
    for uri in uris:
        storage.write_bytes(uri, b"first")
    pairs = [(uri, tmp_path / "down" / name(uri)) for uri in uris]
    (tmp_path / "down").mkdir()
    (tmp_path / "down" / "2").write_bytes(b"other")  # of the right size, but from elsewhere

    def fetched() -> list[int]:
        """The files as they lie on the disk: one that is fetched takes the place of the one before."""
        return [path.stat().st_ino for _, path in pairs]

    storage.download_many(iter(pairs))
    assert [path.read_bytes() for _, path in pairs] == [b"first"] * 3
    before = fetched()
    storage.download_many(pairs)
    storage.download_folder(join(root, "data"), tmp_path / "down")
    assert fetched() == before
    time.sleep(1.1)  # S3 tells times in whole seconds
    storage.write_bytes(uris[1], b"newer")
    storage.download_many(pairs)
    assert [path.read_bytes() for _, path in pairs] == [b"first", b"newer", b"first"]
    assert [a == b for a, b in zip(fetched(), before, strict=True)] == [True, False, True]


def test_the_first_failure_stops_a_transfer_of_many(root: str, storage: Storage, tmp_path: Path) -> None:
    storage.write_bytes(join(root, "there"), b"x")

    def without_end() -> Iterator[tuple[str, Path]]:
        for i in itertools.count():
            yield join(root, "missing" if i == 3 else "there"), tmp_path / str(i)

    with pytest.raises(NotFoundError, match="missing"):
        storage.download_many(without_end())


def test_a_transfer_of_many_looks_only_a_little_ahead(root: str, storage: Storage, tmp_path: Path) -> None:
    storage.write_bytes(join(root, "there"), b"x")
    taken, ahead, done = itertools.count(1), [], [0]

    def pairs() -> Iterator[tuple[str, Path]]:
        for i in range(150):
            ahead.append(next(taken) - done[0])
            yield join(root, "there"), tmp_path / str(i)

    def told(progress: Progress) -> None:
        done[0] = progress.objects

    storage.download_many(pairs(), on_progress=told)
    assert done == [150]
    assert max(ahead) <= 65


def test_a_caller_who_has_enough_leaves_no_threads_behind() -> None:
    before = threading.active_count()
    with closing(each_done(lambda number: number, itertools.count())) as done:
        assert next(done) == 0
    assert threading.active_count() == before


def test_of_many_writers_one_is_first(tmp_path: Path, storage: Storage) -> None:
    uri = str(tmp_path / "claim")

    def claim(number: int) -> bool:
        try:
            storage.write_bytes(uri, bytes([number]), only_if_absent=True)
        except ExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(claim, range(32)))
    assert won.count(True) == 1
    assert storage.read_bytes(uri) == bytes([won.index(True)])


def test_only_files_need_no_download(root: str, storage: Storage) -> None:
    uri = join(root, "with space", "5%.txt")
    storage.write_bytes(uri, b"x")
    path = storage.local_path(uri)
    assert path is None if not root.startswith("file://") else path is not None and path.read_bytes() == b"x"


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
    assert storage.download(f"{s3}/big", tmp_path / "copy").read_bytes() == content


def test_a_client_serves_many_threads(s3: str, storage: Storage) -> None:
    def work(number: int) -> bytes:
        storage.write_bytes(f"{s3}/{number}", bytes([number]) * number)
        return storage.read_bytes(f"{s3}/{number}")

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(40))) == [bytes([n]) * n for n in range(40)]


def test_a_missing_bucket_is_named(s3: str, storage: Storage) -> None:
    with pytest.raises(NotFoundError, match=r"s3://no-such-bucket-here/x cannot be written: .* no such bucket"):
        storage.write_bytes("s3://no-such-bucket-here/x", b"")


def test_no_credentials_are_reported_with_what_to_do(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(StorageError, match=r"no credentials .* set AWS_ACCESS_KEY_ID"):
        Storage(StorageOptions()).read_bytes(f"{s3}/x")


def test_an_endpoint_that_nobody_serves_is_named(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StorageError, match=r"s3://b/key cannot be read: http://127.0.0.1:9 cannot be reached .* check"):
        Storage(StorageOptions(endpoint_url="http://127.0.0.1:9")).read_bytes("s3://b/key")


@pytest.mark.parametrize(
    "options", [StorageOptions(endpoint_url="http://under_score_"), StorageOptions(region="no/such region")]
)
def test_options_that_cannot_be_are_a_fault_of_the_configuration(s3: str, options: StorageOptions) -> None:
    with pytest.raises(ConfigError, match="s3://bucket/key cannot be read"):
        Storage(options).read_bytes("s3://bucket/key")


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_an_endpoint_of_the_environment_is_guarded_too(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "http://169.254.169.254")
    with pytest.raises(ConfigError, match="metadata service"):
        Storage(StorageOptions()).read_bytes("s3://bucket/key")


def test_an_endpoint_of_the_aws_configuration_is_used_and_guarded(
    s3: str, s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    (tmp_path / "config").write_text(f"[default]\nendpoint_url = {s3_server}\n")
    Storage().write_bytes(f"{s3}/key", b"x")
    (tmp_path / "config").write_text("[default]\nendpoint_url = http://169.254.169.254\n")
    with pytest.raises(ConfigError, match="metadata service"):
        Storage().read_bytes(f"{s3}/key")


@pytest.mark.parametrize("uri", ["s3://", "s3:///key", "s3a://bucket/key", "s3://bucket", "s3://bucket/folder/"])
def test_what_names_no_object_is_refused(s3: str, storage: Storage, uri: str) -> None:
    with pytest.raises(ConfigError, match="write s3://"):
        storage.read_bytes(uri)


def test_what_the_disk_refuses_is_a_sentence(root: str, storage: Storage, tmp_path: Path) -> None:
    storage.write_bytes(join(root, "key"), b"x")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file: a part of the path is a file, not a folder") as error:
        storage.download(join(root, "key"), tmp_path / "file" / "below")
    assert not isinstance(error.value, NotFoundError | ExistsError)
    with pytest.raises(StorageError, match="it is a folder, not a file"):
        storage.download(join(root, "key"), tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".partial")]


def test_a_path_that_cannot_be_is_a_sentence(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="a part of the path is a file"):
        storage.write_bytes(str(tmp_path / "file" / "below"), b"", only_if_absent=True)
    with pytest.raises(StorageError, match="it is a folder, not a file"):
        storage.read_bytes(str(tmp_path))
    with pytest.raises(ConfigError, match="this is not a valid file name"):
        storage.read_bytes("a\0b")
    with pytest.raises(ConfigError, match="ftp:// is not supported"):
        storage.local_path("ftp://host/key")


def test_storage_is_imported_without_boto3() -> None:
    script = "import sys, engine.storage; sys.exit('boto3' in sys.modules or 'botocore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_keys_that_lead_out_of_the_folder_are_refused(s3: str, storage: Storage, tmp_path: Path) -> None:
    storage.write_bytes(f"{s3}/up/..\\..\\evil", b"x")
    with pytest.raises(DataError, match="leads out of its folder"):
        storage.download_folder(f"{s3}/up", tmp_path)

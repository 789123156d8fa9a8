"""What S3 does on a bad day, through a proxy that breaks a real server's answers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from faulty_s3 import (
    MIXED,
    Fault,
    FaultyS3,
    Handler,
    Request,
    breaks_off,
    damages,
    resets,
    says,
    stalls,
    truncates,
)

from engine.errors import StorageError
from engine.storage import ExistsError, NotFoundError, Storage, StorageOptions

pytestmark = pytest.mark.usefixtures("short_pauses")


@pytest.fixture
def storage(proxy: FaultyS3) -> Storage:
    return Storage(StorageOptions(endpoint_url=proxy.url))


CONTENT = bytes(range(256)) * 12_000


@pytest.mark.parametrize("code", ["SlowDown", "ServiceUnavailable", "InternalError"])
def test_a_store_that_is_busy_for_a_while_is_waited_for(s3: str, proxy: FaultyS3, storage: Storage, code: str) -> None:
    proxy.faults.extend([says(503, code), says(503, code)])
    storage.write_bytes(f"{s3}/key", b"content")
    proxy.faults.append(says(503, code))
    assert storage.read_bytes(f"{s3}/key") == b"content"
    assert not proxy.faults


def test_a_store_that_stays_busy_is_given_up_with_a_sentence(
    s3: str, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    proxy.faults.extend([says(503, "SlowDown")] * 2)
    with pytest.raises(StorageError, match=r"key cannot be read: .* answered SlowDown; .* try again later"):
        Storage(StorageOptions(endpoint_url=proxy.url)).read_bytes(f"{s3}/key")


@pytest.mark.parametrize("after", [0, 1, 1_500_000])
def test_a_read_that_breaks_off_resumes_where_it_was(
    s3: str, proxy: FaultyS3, storage: Storage, tmp_path: Path, after: int
) -> None:
    storage.write_bytes(f"{s3}/key", CONTENT)
    proxy.faults.append(breaks_off(after))
    with storage.open(f"{s3}/key") as stream:
        assert stream.read(10) + stream.read() == CONTENT
    assert proxy.ranges == [None, f"bytes={after}-"]
    proxy.faults.append(breaks_off(after))
    assert storage.download(f"{s3}/key", tmp_path / "copy").read_bytes() == CONTENT


def test_a_read_that_always_breaks_off_ends_with_a_sentence_and_no_file(
    s3: str, proxy: FaultyS3, storage: Storage, tmp_path: Path
) -> None:
    storage.write_bytes(f"{s3}/key", CONTENT)
    proxy.faults.extend([breaks_off(1000), *[breaks_off(0)] * 7])
    with pytest.raises(StorageError, match=r"key broke off at byte 1000 of 3072000 at each of 8 attempts"):
        storage.download(f"{s3}/key", tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_an_object_that_is_overwritten_while_it_is_read_is_not_mixed(
    s3: str, proxy: FaultyS3, storage: Storage
) -> None:
    storage.write_bytes(f"{s3}/key", CONTENT)
    proxy.faults.append(breaks_off(2_000_000))
    with storage.open(f"{s3}/key") as stream:
        stream.read(10)
        storage.write_bytes(f"{s3}/key", CONTENT[::-1])
        with pytest.raises(StorageError, match="key was overwritten while it was read"):
            stream.read()


def test_damage_is_noticed_by_the_etag_where_there_is_no_other_checksum(
    s3: str, proxy: FaultyS3, storage: Storage, tmp_path: Path
) -> None:
    storage.write_bytes(f"{s3}/key", CONTENT)
    proxy.faults.extend([damages, damages])
    assert storage.read_bytes(f"{s3}/key") == CONTENT
    proxy.faults.append(damages)
    assert storage.download(f"{s3}/key", tmp_path / "copy").read_bytes() == CONTENT
    proxy.faults.append(damages)
    with (
        storage.open(f"{s3}/key") as stream,
        pytest.raises(StorageError, match=r"came damaged \(its MD5 is not its ETag"),
    ):
        stream.read()


def test_a_large_object_that_comes_in_parts_is_noticed_to_be_damaged(
    s3: str, proxy: FaultyS3, storage: Storage, tmp_path: Path
) -> None:
    storage.write_bytes(f"{s3}/key", bytes(20 << 20))
    proxy.faults.extend([damages] * 4)
    assert storage.download(f"{s3}/key", tmp_path / "copy").read_bytes() == bytes(20 << 20)
    assert len(proxy.ranges) > 5


def test_etags_that_are_no_md5_are_no_damage(s3: str, proxy: FaultyS3, storage: Storage) -> None:
    def other_etag(handler: Handler, request: Request) -> None:
        answer = handler.store(request)
        headers = tuple((key, value) for key, value in answer.headers if key.lower() != "etag")
        handler.send(replace(answer, headers=(*headers, ("ETag", f'"{"0123456789abcdef" * 2}"'))))

    storage.write_bytes(f"{s3}/key", CONTENT)
    proxy.before = lambda request: other_etag
    assert [storage.read_bytes(f"{s3}/key") for _ in range(3)] == [CONTENT] * 3
    assert len(proxy.ranges) == 2 + 3


def test_content_that_is_damaged_on_its_way_to_the_store_is_sent_anew(
    s3: str, proxy: FaultyS3, storage: Storage, tmp_path: Path
) -> None:
    proxy.faults.append(damages)
    storage.write_bytes(f"{s3}/key", CONTENT)
    (tmp_path / "file").write_bytes(bytes(20 << 20))
    proxy.faults.extend([damages, damages])
    storage.upload(tmp_path / "file", f"{s3}/large")
    assert not proxy.faults
    assert storage.read_bytes(f"{s3}/key") == CONTENT
    assert storage.read_bytes(f"{s3}/large") == bytes(20 << 20)


def test_a_store_that_stalls_is_asked_again(
    s3: str, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("engine.storage.s3.READ_TIMEOUT", 0.5)
    storage = Storage(StorageOptions(endpoint_url=proxy.url))
    storage.write_bytes(f"{s3}/key", CONTENT)
    said: list[str] = []
    storage.on_retry = said.append
    proxy.faults.append(stalls(1_000_000, 20))
    assert storage.read_bytes(f"{s3}/key") == CONTENT
    assert len(proxy.ranges) == 2
    assert re.fullmatch(rf"{s3}/key broke off at byte \d+ of 3072000: attempt 2 of 8", said[0])


@pytest.mark.slow
def test_a_stall_of_twenty_seconds_is_waited_for(s3: str, proxy: FaultyS3, storage: Storage) -> None:
    storage.write_bytes(f"{s3}/key", CONTENT)
    proxy.faults.append(stalls(1_000_000, 20))
    assert storage.read_bytes(f"{s3}/key") == CONTENT
    assert proxy.ranges == [None]


def test_a_burst_that_meets_every_thread_is_waited_for_and_told_in_few_lines(
    s3: str, proxy: FaultyS3, storage: Storage, tmp_path: Path
) -> None:
    for number in range(40):
        storage.write_bytes(f"{s3}/in/{number}", bytes([number]))
    said: list[str] = []
    storage.on_retry = said.append
    met: Counter[str] = Counter()

    def three_times(request: Request) -> Fault | None:
        met[request.path] += request.reads_object
        return says(503, "SlowDown") if 0 < met[request.path] <= 3 else None

    proxy.before = three_times
    storage.download_folder(f"{s3}/in", tmp_path)
    assert {int(path.name): path.read_bytes()[0] for path in tmp_path.iterdir()} == {n: n for n in range(40)}
    assert 1 <= len(said) <= 3
    assert re.fullmatch(rf"{s3}/in/\S* answered SlowDown: attempt 2 of 8", said[0])
    assert met.total() == 160


def test_a_listing_that_comes_in_part_is_listed_anew(s3: str, proxy: FaultyS3, storage: Storage) -> None:
    for number in range(10):
        storage.write_bytes(f"{s3}/in/{number}", b"content")
    proxy.faults.extend([truncates, resets, says(503, "SlowDown")])
    assert [item.key for item in storage.list(f"{s3}/in")] == [str(number) for number in range(10)]
    assert not proxy.faults


def test_a_refusal_that_breaks_off_is_heard_anew(s3: str, proxy: FaultyS3, storage: Storage) -> None:
    proxy.faults.extend([truncates, resets, resets])
    with pytest.raises(NotFoundError):
        storage.read_bytes(f"{s3}/nothing")
    proxy.before = lambda _: resets
    with pytest.raises(
        StorageError, match=r"nothing cannot be read: .* broke off the connection .*, at each of 8 attempts"
    ):
        storage.read_bytes(f"{s3}/nothing")


def test_an_answer_that_is_lost_does_not_make_a_writer_take_its_own_object_for_anothers(
    s3: str, proxy: FaultyS3, storage: Storage
) -> None:
    proxy.faults.append(resets)
    storage.write_bytes(f"{s3}/key", b"mine", only_if_absent=True)
    assert [request for request in proxy.requests if request[0] == "PUT"][1:], "it was sent once"
    with pytest.raises(ExistsError):
        storage.write_bytes(f"{s3}/key", b"another's", only_if_absent=True)


def test_a_store_without_conditional_writes_is_inspected_first(s3: str, proxy: FaultyS3, storage: Storage) -> None:
    proxy.conditional = False
    storage.write_bytes(f"{s3}/key", b"first", only_if_absent=True)
    with pytest.raises(ExistsError):
        storage.write_bytes(f"{s3}/key", b"second", only_if_absent=True)
    assert storage.read_bytes(f"{s3}/key") == b"first"


def in_a_shared_file(folder: Path, key: str) -> dict[str, str]:
    """Environment of keys in a file, as a mounted Secret is one."""
    file = folder / "credentials"
    file.write_text(f"[default]\naws_access_key_id={key}\naws_secret_access_key=secret\n")
    return {"AWS_SHARED_CREDENTIALS_FILE": str(file)}


def by_a_program(folder: Path, key: str) -> dict[str, str]:
    """Environment of a credential_process that does not say when its keys end."""
    (folder / "keys.json").write_text(json.dumps({"Version": 1, "AccessKeyId": key, "SecretAccessKey": "secret"}))
    (folder / "config").write_text(f"[default]\ncredential_process=cat {folder / 'keys.json'}\n")
    return {"AWS_CONFIG_FILE": str(folder / "config")}


@pytest.mark.parametrize("source", [in_a_shared_file, by_a_program])
def test_credentials_that_rotate_are_read_anew(
    s3: str,
    proxy: FaultyS3,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    source: Callable[[Path, str], dict[str, str]],
) -> None:
    for variable, value in source(tmp_path, "FIRST").items():
        monkeypatch.setenv(variable, value)
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    proxy.accepted = {"FIRST"}
    storage = Storage(StorageOptions(endpoint_url=proxy.url))
    for number in range(30):
        storage.write_bytes(f"{s3}/in/{number}", b"content")
    source(tmp_path, "SECOND")
    proxy.accepted = {"SECOND"}
    storage.download_folder(f"{s3}/in", tmp_path / "copy")
    assert len(list((tmp_path / "copy").iterdir())) == 30

    proxy.accepted = set()
    with pytest.raises(StorageError, match="the credentials have expired: renew them"):
        storage.exists(f"{s3}/in/0")


def test_damaged_content_is_read_anew(s3: str, proxy: FaultyS3, storage: Storage, tmp_path: Path) -> None:
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
    s3: str, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch, status: int, code: str, advice: str
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    storage = Storage(StorageOptions(endpoint_url=proxy.url))
    storage.write_bytes(f"{s3}/key", b"content")
    proxy.faults.extend([says(status, code)] * 2)
    with pytest.raises(StorageError, match=rf"^{s3}/key cannot be read: .*{advice}"):
        storage.read_bytes(f"{s3}/key")


def test_a_refused_upload_says_what_to_do(s3: str, proxy: FaultyS3, storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    proxy.faults.append(says(403, "AccessDenied"))
    with pytest.raises(StorageError, match=rf"^{s3}/key cannot be written: access is denied: .* check the policies"):
        storage.upload(tmp_path / "file", f"{s3}/key")


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
        ({}, "access is denied: these credentials lack permission"),
    ],
)
def test_credentials_that_do_not_do_are_distinguished(
    s3: str, user: dict[str, str], monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str], advice: str
) -> None:
    for variable, value in (user | wrong).items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(StorageError, match=f"^{s3}/key cannot be read: .*{advice}") as error:
        Storage().read_bytes(f"{s3}/key")
    assert user["AWS_SECRET_ACCESS_KEY"] not in str(error.value)
    with pytest.raises(StorageError, match=f"^{s3}/key cannot be accessed: .*{advice}"):
        Storage().exists(f"{s3}/key")


@pytest.mark.parametrize("size", [3_072_000, 20 << 20])
def test_a_download_that_is_killed_leaves_no_half_file(
    s3: str, proxy: FaultyS3, storage: Storage, tmp_path: Path, size: int
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


@pytest.mark.slow
def test_among_many_faults_nothing_wrong_is_read_or_written(
    s3: str, proxy: FaultyS3, storage: Storage, tmp_path: Path
) -> None:
    """Every operation, from many threads, while one request in eight meets a fault."""
    random, truth = Random(0), dict[str, bytes]()
    storage.write_bytes(f"{s3}/first", b"")  # so that it is known that ETags are MD5s
    storage.read_bytes(f"{s3}/first")
    proxy.at_random(0.125, MIXED | {"stall": stalls(100, 0.05)}, seed=1)

    def work(number: int) -> None:
        key, size = f"{number % 7}/{number}", random.choice((0, 1, 5_000, 300_000, 20 << 20 if number % 50 == 0 else 9))
        content, uri, file = Random(number).randbytes(size), f"{s3}/all/{key}", tmp_path / str(number)
        if number % 3:
            storage.write_bytes(uri, content, only_if_absent=number % 2 == 0)
        else:
            file.write_bytes(content)
            storage.upload(file, uri)
        storage.copy(uri, f"{uri}.copy")
        assert storage.read_bytes(f"{uri}.copy") == content
        assert storage.download(uri, file).read_bytes() == content
        storage.delete(f"{uri}.copy")
        assert not storage.exists(f"{uri}.copy")
        with pytest.raises(NotFoundError):
            storage.read_bytes(f"{uri}.copy")
        truth[key] = content
        file.unlink()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(300)))
    assert {item.key: item.size for item in storage.list(f"{s3}/all")} == {k: len(v) for k, v in truth.items()}
    print(f"{len(proxy.requests)} requests, faults: {dict(proxy.injected)}")

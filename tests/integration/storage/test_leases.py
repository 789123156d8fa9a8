"""One process at a time works on an output in an object store."""

from __future__ import annotations

import threading
import time

import pytest

from engine.errors import StorageError
from engine.storage import Storage, output_lock
from engine.storage.output_lock import lock_output


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_lock, "RENEW", 0.3)
    monkeypatch.setattr(output_lock, "STALE", 1.5)
    monkeypatch.setattr(output_lock, "SETTLE", 0.2)


class Unconditional(Storage):
    """A store that ignores conditions, as some do."""

    def write_bytes(
        self, uri: str, data: bytes, *, content_type: str | None = None, only_if_absent: bool = False
    ) -> None:
        super().write_bytes(uri, data, content_type=content_type)


@pytest.mark.parametrize("store", [Storage, Unconditional])
def test_the_second_is_refused_and_the_first_continues(s3: str, store: type[Storage]) -> None:
    output = f"{s3}/out/labels.json"
    with lock_output(output, store()) as check:
        time.sleep(0.5)
        with pytest.raises(StorageError, match="is working on"):
            lock_output(output, store()).__enter__()
        time.sleep(2)  # longer than one that is not renewed counts
        check()
    assert not list(Storage().list(f"{s3}/out"))


def test_that_of_a_process_that_was_killed_is_taken_over(s3: str) -> None:
    output, notes = f"{s3}/out/labels.json", list[str]()
    Storage().write_bytes(f"{output}.lease", b'{"owner": "gone", "holder": "process 1 on node-7"}')
    with lock_output(output, Storage(), note=notes.append) as check:
        check()
    assert "process 1 on node-7" in notes[0]


def test_one_that_another_has_taken_over_stops(s3: str) -> None:
    output = f"{s3}/out/labels.json"
    with lock_output(output, Storage()) as check:
        Storage().write_bytes(f"{output}.lease", b'{"owner": "other", "holder": "process 1 on node-7"}')
        time.sleep(1)
        with pytest.raises(StorageError, match="process 1 on node-7"):
            check()
    assert Storage().exists(f"{output}.lease")  # it is the other's


@pytest.mark.parametrize("store", [Storage, Unconditional])
def test_of_several_that_begin_in_the_same_moment_at_most_one_continues(s3: str, store: type[Storage]) -> None:
    output, won = f"{s3}/out/labels.json", list[int]()
    barrier = threading.Barrier(6)

    def begin(number: int) -> None:
        barrier.wait()
        try:
            with lock_output(output, store()) as check:
                time.sleep(1.2)
                check()
                won.append(number)
        except StorageError:
            pass

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1

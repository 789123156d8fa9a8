"""Attempts that publish the same thing, one of which is held up at every possible moment."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
from faulty_s3 import Fault, FaultyS3, Handler, Request, says

from engine.errors import StorageError
from engine.layout import ATTEMPTS, COMMIT
from engine.storage import Storage, StorageOptions, join
from engine.storage.publication import Publication

PATHS = ("sam/a.bin", "sam/deep/b.bin", "logs/c.bin", "sam/result.json")


def files_of(attempt: str, folder: Path) -> dict[str, Path]:
    """What an attempt publishes: every file says whose it is; the zombie has one that the others have not."""
    paths = (*PATHS[:3], f"logs/of {attempt}", PATHS[3])
    files = {path: folder / attempt / path for path in paths}
    for path, file in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{attempt} {path}")
    return files


def published(root: str, storage: Storage) -> dict[str, str]:
    """What readers see, by path."""
    found = {item.key: storage.read_bytes(item.uri).decode() for item in storage.list(root)}
    return {path: text for path, text in found.items() if not path.startswith(f"{ATTEMPTS}/")}


def attempt_in(found: dict[str, str]) -> str:
    """The one attempt that all files are of."""
    (attempt,) = {text.partition(" ")[0] for text in found.values()}
    assert found == {path: f"{attempt} {path}" for path in (*PATHS, f"logs/of {attempt}")}
    return attempt


def hold(proxy: FaultyS3, number: int) -> tuple[Event, Event]:
    """Hold this request, counted from 0, until the second event is set; the first tells that it has come."""
    come, go = Event(), Event()
    proxy.requests.clear()

    def held(handler: Handler, request: Request) -> None:
        come.set()
        go.wait(60)
        handler.send(handler.store(request))

    def choose(_: Request) -> Fault | None:
        return held if len(proxy.requests) == number + 1 else None

    proxy.before = choose
    return come, go


def test_files_are_published_once(s3: str, tmp_path: Path) -> None:
    storage = Storage()
    publication = Publication(s3, "sam", storage=storage)
    assert not publication.settle()
    assert publication.publish(files_of("first", tmp_path))
    assert not publication.publish(files_of("second", tmp_path))
    assert attempt_in(published(s3, storage)) == "first"
    assert [item.key for item in storage.list(s3) if item.key.startswith(ATTEMPTS)] == [f"attempts/sam/{COMMIT}"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "again", [pytest.param(False, id="published"), pytest.param(True, id="withdrawn", marks=pytest.mark.slow)]
)
def test_an_attempt_that_is_held_up_at_any_request_changes_nothing_when_it_resumes(
    s3: str, proxy: FaultyS3, tmp_path: Path, again: bool
) -> None:
    slow, storage = Storage(StorageOptions(endpoint_url=proxy.url)), Storage()
    zombie = files_of("zombie", tmp_path)
    assert Publication(f"{s3}/alone", "sam", storage=slow).publish(zombie)
    requests = len(proxy.requests)
    assert requests > 15
    won = []
    for number in range(requests):
        root = f"{s3}/{number}"
        come, go = hold(proxy, number)
        with ThreadPoolExecutor(1) as pool:
            late = pool.submit(Publication(root, "sam", storage=slow).publish, zombie)
            try:
                assert come.wait(60)
                publication = Publication(root, "sam", storage=storage)
                publication.publish(files_of("next", tmp_path))
                whole = published(root, storage)
                won.append(attempt_in(whole))
                if again:
                    publication.withdraw()
                    for path in whole:
                        storage.delete(join(root, path))
                    assert publication.publish(files_of("later", tmp_path))
                    whole = published(root, storage)
            finally:
                go.set()
            assert late.result(60) == (attempt_in(whole) == "zombie")
        assert published(root, storage) == whole
    assert set(won) == {"zombie", "next"}


def test_what_was_committed_by_an_attempt_that_died_is_published_by_the_next(
    s3: str, proxy: FaultyS3, tmp_path: Path
) -> None:
    dead, storage = Storage(StorageOptions(endpoint_url=proxy.url)), Storage()
    proxy.before = lambda request: says(403, "AccessDenied") if "x-amz-copy-source" in request.headers else None
    with pytest.raises(StorageError):
        Publication(s3, "sam", storage=dead).publish(files_of("dead", tmp_path))
    assert published(s3, storage) == {}
    assert Publication(s3, "sam", storage=storage).settle()
    assert attempt_in(published(s3, storage)) == "dead"


def test_what_was_deleted_since_is_a_sentence(s3: str, tmp_path: Path) -> None:
    storage = Storage()
    publication = Publication(s3, "sam", storage=storage)
    publication.publish(files_of("first", tmp_path))
    storage.delete(f"{s3}/sam/result.json")
    with pytest.raises(StorageError, match=r"sam/result\.json was published, and has been deleted since: .* --again"):
        publication.settle()
    storage.write_bytes(f"{s3}/attempts/sam/{COMMIT}", b"{")
    with pytest.raises(StorageError, match=r"commit\.json was not written by this version"):
        publication.settle()


def test_attempts_on_a_disk_do_not_mix_either(tmp_path: Path) -> None:
    root, storage = str(tmp_path / "out"), Storage()
    attempts = [files_of(f"a{number}", tmp_path / "work") for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(Publication(root, "sam", storage=storage).publish, attempts))
    assert won.count(True) == 1
    assert attempt_in(published(root, storage)) == f"a{won.index(True)}"
    assert [path.name for path in (tmp_path / "out" / ATTEMPTS / "sam").iterdir()] == [COMMIT]

"""Attempts at one run on stores that ignore, or refuse, conditional writes."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
from faulty_s3 import Answer, Fault, FaultyS3, Handler, Request, error, says

from engine.errors import StorageError
from engine.layout import ATTEMPTS
from engine.storage import ExistsError, ObjectInfo, Storage, StorageOptions, join
from engine.storage.election import elect
from engine.storage.publication import Publication

PATHS = ("sam/a.bin", "sam/deep/b.bin", "logs/c.bin", "sam/result.json")


def files_of(attempt: str, folder: Path) -> dict[str, Path]:
    files = {path: folder / attempt / path for path in (*PATHS[:3], f"logs/of {attempt}", PATHS[3])}
    for path, file in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{attempt} {path}")
    return files


def published(root: str) -> dict[str, str]:
    storage = Storage()
    found = {item.key: storage.read_bytes(item.uri).decode() for item in storage.list(root)}
    return {path: text for path, text in found.items() if not path.startswith(f"{ATTEMPTS}/")}


def attempt_in(found: dict[str, str]) -> str:
    """The one attempt that all files are of."""
    (attempt,) = {text.partition(" ")[0] for text in found.values()}
    assert found == {path: f"{attempt} {path}" for path in (*PATHS, f"logs/of {attempt}")}
    return attempt


def ignores(handler: Handler, request: Request) -> None:
    kept = {name: value for name, value in request.headers.items() if name.lower() != "if-none-match"}
    handler.send(handler.store(replace(request, headers=kept)))


ODD_STORES: dict[str, Fault] = {
    "ignores": ignores,
    "501": says(501, "NotImplemented"),
    "400 InvalidArgument": says(400, "InvalidArgument"),
    "400 InvalidRequest": says(400, "InvalidRequest"),
    "405": says(405, "MethodNotAllowed"),
}


def is_conditional(request: Request) -> bool:
    return request.method == "PUT" and "If-None-Match" in request.headers


@pytest.fixture(params=list(ODD_STORES))
def odd(request: pytest.FixtureRequest, s3: str, proxy: FaultyS3) -> Storage:
    """Storage behind the proxy, whose conditional writes meet this."""
    fault = ODD_STORES[request.param]
    proxy.before = lambda asked: fault if is_conditional(asked) else None
    return Storage(StorageOptions(endpoint_url=proxy.url))


def test_what_a_store_makes_of_conditions_is_tried_out_and_leaves_nothing(s3: str, odd: Storage) -> None:
    assert not odd.honours_conditions(f"{s3}/run")
    assert Storage().honours_conditions(f"{s3}/run")
    assert not list(Storage().list(s3))


def test_a_store_that_refuses_conditions_is_inspected_first(s3: str, odd: Storage) -> None:
    if not odd.honours_conditions(s3):
        odd.write_bytes(f"{s3}/key", b"first", only_if_absent=True)
    try:
        odd.write_bytes(f"{s3}/key", b"second", only_if_absent=True)
    except ExistsError:
        assert odd.read_bytes(f"{s3}/key") == b"first"
    else:
        assert odd.read_bytes(f"{s3}/key") == b"second", "a store that ignores conditions shows nothing"


@pytest.mark.parametrize(
    "odd",
    ["ignores", "501", *(pytest.param(name, marks=pytest.mark.slow) for name in list(ODD_STORES)[2:])],
    indirect=True,
)
def test_of_eight_attempts_one_is_published_whole(s3: str, odd: Storage, proxy: FaultyS3, tmp_path: Path) -> None:
    attempts = {f"a{number}": files_of(f"a{number}", tmp_path) for number in range(8)}

    def publish(name: str) -> bool:
        storage = Storage(StorageOptions(endpoint_url=proxy.url))
        return Publication(s3, "sam", storage=storage).publish(attempts[name])

    with ThreadPoolExecutor(8) as pool:
        won = dict(zip(attempts, pool.map(publish, attempts), strict=True))
    assert [name for name, is_winner in won.items() if is_winner] == [attempt_in(published(s3))]
    left = {item.key.split("/")[2] for item in Storage().list(s3) if item.key.startswith(ATTEMPTS)}
    assert left == {"election-0"}


@pytest.mark.parametrize("again", [pytest.param(a, id="withdrawn" if a else "published") for a in (False, True)])
@pytest.mark.slow
def test_an_attempt_that_is_held_up_at_any_request_changes_nothing_when_it_resumes(
    s3: str, proxy: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    monkeypatch.setattr("engine.storage.publication.PATIENCE", 0.2)
    asked: list[Request] = []
    hold_at, come, go = 10**9, Event(), Event()

    def choose(request: Request) -> Fault | None:
        asked.append(request)
        mine = len(asked)

        def fault(handler: Handler, request: Request) -> None:
            if mine == hold_at:
                come.set()
                go.wait(60)
            ignores(handler, request)

        return fault

    proxy.before = choose
    zombie = files_of("zombie", tmp_path)
    assert Publication(f"{s3}/alone", "sam", storage=Storage(StorageOptions(endpoint_url=proxy.url))).publish(zombie)
    direct, won = IgnoringStorage(), set()
    for number in range(1, len(asked) + 1):
        root, hold_at, come, go = f"{s3}/{number}", number, Event(), Event()
        asked.clear()
        with ThreadPoolExecutor(1) as pool:
            slow = Storage(StorageOptions(endpoint_url=proxy.url))
            late = pool.submit(Publication(root, "sam", storage=slow).publish, zombie)
            try:
                assert come.wait(60)
                publication = Publication(root, "sam", storage=direct)
                publication.publish(files_of("next", tmp_path))
                whole = published(root)
                won.add(attempt_in(whole))
                if again:
                    publication.withdraw()
                    for path in whole:
                        direct.delete(join(root, path))
                    assert Publication(root, "sam", storage=direct).publish(files_of("later", tmp_path))
                    whole = published(root)
            finally:
                go.set()
            refused = late.exception(60)
            if refused is None:
                assert late.result() == (attempt_in(whole) == "zombie")
            else:  # its records are gone: it does not go on
                assert again
                assert isinstance(refused, StorageError)
        assert published(root) == whole, number
    assert won == {"zombie", "next"}


class IgnoringStorage(Storage):
    """As behind a store that ignores conditions, without the proxy."""

    def honours_conditions(self, folder: str) -> bool:
        return False


def test_a_store_that_does_not_list_what_it_was_given_is_refused_before_training(s3: str, proxy: FaultyS3) -> None:
    def empties(handler: Handler, request: Request) -> None:
        answer: Answer = handler.store(request)
        body = re.sub(rb"<Contents>.*</Contents>", b"", answer.body, flags=re.DOTALL)
        headers = tuple((k, v) for k, v in answer.headers if k.lower() != "content-length")
        handler.send(replace(answer, body=body, headers=(*headers, ("Content-Length", str(len(body))))))

    def choose(request: Request) -> Fault | None:
        return ignores if is_conditional(request) else empties if "list-type=2" in request.path else None

    proxy.before = choose
    with pytest.raises(StorageError, match=r"\.teacher: this store honours no conditional writes .* another store"):
        Storage(StorageOptions(endpoint_url=proxy.url)).honours_conditions(f"{s3}/run")


def test_a_store_that_cannot_be_written_to_says_so(s3: str, proxy: FaultyS3) -> None:
    proxy.before = lambda request: Fault403 if request.method == "PUT" else None
    with pytest.raises(StorageError, match="access is denied"):
        Storage(StorageOptions(endpoint_url=proxy.url)).honours_conditions(f"{s3}/run")


def Fault403(handler: Handler, request: Request) -> None:  # noqa: N802
    handler.send(error(403, "AccessDenied"))


class Memory:
    """A store of one folder, where requests end at any moment: before they have done what they should, or after."""

    def __init__(self, chance: random.Random, fails: float) -> None:
        self.names: set[str] = set()
        self.late: list[str] = []
        self.chance, self.fails = chance, fails

    def write_bytes(self, uri: str, data: bytes) -> None:
        name = uri.rpartition("/")[2]
        if self.chance.random() < self.fails:
            if self.chance.random() < 0.5:
                self.late.append(name)  # it arrives when nobody expects it any more
            raise StorageError("killed")
        self.names.add(name)

    def list(self, folder: str) -> list[ObjectInfo]:
        return [ObjectInfo(f"{folder}/{name}", name, 1, "", 0) for name in sorted(self.names)]


def test_whatever_order_requests_come_in_no_two_are_elected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Voters are threads of our own making: after each request another one, at random, goes on."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    outcomes: dict[int, int] = {}
    for seed in range(300):
        chance = random.Random(seed)
        store = Memory(chance, fails=0.1 * (seed % 3))
        elected = list(interleaved(store, chance, voters=2 + seed % 4))
        assert len(set(elected)) <= 1, seed
        outcomes[len(elected)] = outcomes.get(len(elected), 0) + 1
    assert sum(count for number, count in outcomes.items() if number) > 200, outcomes


def interleaved(store: Memory, chance: random.Random, *, voters: int) -> Iterator[str]:
    """Run voters one request at a time; what those elected who came to an end."""
    names = [f"{chance.getrandbits(128):032x}" for _ in range(voters)]
    turn, done = {name: Event() for name in names}, {name: Event() for name in names}
    running = set(names)

    class Taking:
        def __init__(self, name: str) -> None:
            self.name = name

        def _wait(self) -> None:
            done[self.name].set()
            turn[self.name].wait()
            turn[self.name].clear()

        def write_bytes(self, uri: str, data: bytes) -> None:
            self._wait()
            store.write_bytes(uri, data)

        def list(self, folder: str) -> list[ObjectInfo]:
            self._wait()
            return store.list(folder)

    def vote(name: str) -> str | None:
        try:
            return elect(name, "s3://b/e", storage=Taking(name), decided=lambda: False)  # type: ignore[arg-type]
        except StorageError:
            return None
        finally:
            running.discard(name)
            done[name].set()

    with ThreadPoolExecutor(voters) as pool:
        futures = [pool.submit(vote, name) for name in names]
        for name in names:
            done[name].wait()
        while running:
            if store.late and chance.random() < 0.3:
                store.names.add(store.late.pop())
            name = chance.choice(sorted(running))
            done[name].clear()
            turn[name].set()
            done[name].wait()
    return iter([found for future in futures if (found := future.result()) is not None])


def test_the_disk_keeps_its_word_without_links_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuses)
    for number in range(20):
        root = str(tmp_path / f"out{number}")

        def claim(writer: int, uri: str = f"{root}/claim") -> bool:
            try:
                Storage().write_bytes(uri, bytes([writer]), only_if_absent=True)
            except ExistsError:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(claim, range(8))).count(True) == 1

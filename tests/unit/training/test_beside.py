from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from engine.errors import StorageError
from engine.training import beside as module
from engine.training.beside import Beside, UnwantedError


def test_what_is_found_beside_is_there_when_it_is_asked_for() -> None:
    go_on = threading.Event()

    def work(check: Callable[[], None]) -> str:
        check()
        assert go_on.wait(60)
        return threading.current_thread().name

    with Beside[str]() as beside:
        beside.begin(work)
        beside.check()
        assert beside.busy
        go_on.set()
        assert beside.result() == "beside"
        assert not beside.busy
        beside.check()


def test_what_was_not_begun_gives_nothing() -> None:
    with Beside[str]() as beside:
        beside.check()
        assert beside.result() is None
        assert not beside.busy


def test_its_failure_is_raised_where_it_is_looked_for() -> None:
    failure = StorageError("the store is gone")

    def work(check: Callable[[], None]) -> None:
        raise failure

    with Beside[None]() as beside:
        beside.begin(work)
        for look in (beside.result, beside.check):
            with pytest.raises(StorageError) as raised:
                look()
            assert raised.value is failure


def test_who_leaves_early_ends_it() -> None:
    ended: list[BaseException] = []

    def work(check: Callable[[], None]) -> None:
        try:
            while True:
                check()
        except UnwantedError as error:
            ended.append(error)
            raise

    with Beside[None]() as beside:
        beside.begin(work)
    assert len(ended) == 1


def test_who_leaves_early_does_not_wait_for_an_answer_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.01)
    answer = threading.Event()

    def work(check: Callable[[], None]) -> bool:
        return answer.wait(60)

    with Beside[bool]() as beside:
        beside.begin(work)
    assert beside.busy
    answer.set()
    assert beside.result()

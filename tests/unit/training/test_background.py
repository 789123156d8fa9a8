from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from engine.errors import StorageError
from engine.training import background
from engine.training.background import BackgroundTask, TaskCancelledError


def test_the_result_is_available_when_requested() -> None:
    go_on = threading.Event()

    def work(check: Callable[[], None]) -> str:
        check()
        assert go_on.wait(60)
        return threading.current_thread().name

    with BackgroundTask[str]() as task:
        task.begin(work)
        task.check()
        assert task.busy
        go_on.set()
        assert task.result() == "background-task"
        assert not task.busy
        task.check()


def test_a_task_not_started_has_no_result() -> None:
    with BackgroundTask[str]() as task:
        task.check()
        assert task.result() is None
        assert not task.busy


def test_result_and_check_raise_its_failure() -> None:
    failure = StorageError("the store is gone")

    def work(check: Callable[[], None]) -> None:
        raise failure

    with BackgroundTask[None]() as task:
        task.begin(work)
        for look in (task.result, task.check):
            with pytest.raises(StorageError) as raised:
                look()
            assert raised.value is failure


def test_leaving_the_block_cancels_it() -> None:
    ended: list[BaseException] = []

    def work(check: Callable[[], None]) -> None:
        try:
            while True:
                check()
        except TaskCancelledError as error:
            ended.append(error)
            raise

    with BackgroundTask[None]() as task:
        task.begin(work)
    assert len(ended) == 1


def test_leaving_the_block_does_not_wait_for_a_slow_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "SHUTDOWN_TIMEOUT", 0.01)
    answer = threading.Event()

    def work(check: Callable[[], None]) -> bool:
        return answer.wait(60)

    with BackgroundTask[bool]() as task:
        task.begin(work)
    assert task.busy
    answer.set()
    assert task.result()

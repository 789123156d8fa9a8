"""A queue in which a key is worked on by one worker at a time, and never waits twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teacher_operator.runtime import workqueue
from teacher_operator.runtime.workqueue import FIRST_RETRY_SECONDS, GIVES_WAY_SECONDS, LAST_RETRY_SECONDS, WorkQueue

Queue = WorkQueue[str]


class Clock:
    """Time that goes by only when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    own = Clock()
    monkeypatch.setattr(workqueue, "time", own)  # not the clock of the event loop
    return own


def run(test: Callable[[Queue], Awaitable[None]]) -> None:
    async def main() -> None:
        await asyncio.wait_for(test(WorkQueue()), 20)

    asyncio.run(main())


async def ready(queue: Queue) -> list[str]:
    """The keys that can be worked on now, each worked on at once."""
    found = []
    while len(queue):
        key = await queue.get()
        queue.done(key)
        found.append(key)
    return found


@asynccontextmanager
async def ticking(queue: Queue) -> AsyncIterator[None]:
    task = asyncio.create_task(queue.run_timer())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


# Now.


def test_keys_come_in_the_order_in_which_they_were_added() -> None:
    async def test(queue: Queue) -> None:
        for key in "cab":
            queue.add(key)
        assert len(queue) == 3
        assert await ready(queue) == ["c", "a", "b"]
        assert len(queue) == 0

    run(test)


def test_a_key_never_waits_twice() -> None:
    async def test(queue: Queue) -> None:
        for key in "aabaa":
            queue.add(key)
        assert await ready(queue) == ["a", "b"]

    run(test)


def test_a_key_that_is_worked_on_waits_until_that_is_done() -> None:
    async def test(queue: Queue) -> None:
        queue.add("a")
        assert await queue.get() == "a"
        for _ in range(3):
            queue.add("a")
        queue.add("b")
        assert len(queue) == 1
        assert await queue.get() == "b"
        assert len(queue) == 0
        queue.done("a")
        assert await ready(queue) == ["a"], "once, however often it was asked for"
        queue.done("b")
        assert len(queue) == 0

    run(test)


def test_work_that_is_done_is_not_done_again_unasked() -> None:
    async def test(queue: Queue) -> None:
        queue.add("a")
        assert await ready(queue) == ["a"]
        assert len(queue) == 0

    run(test)


def test_workers_wait_for_keys() -> None:
    async def test(queue: Queue) -> None:
        worker = asyncio.create_task(queue.get())
        await settle()
        assert not worker.done()
        queue.add("a")
        assert await worker == "a"

    run(test)


def test_a_worker_that_was_cancelled_takes_no_key_with_it() -> None:
    async def test(queue: Queue) -> None:
        worker = asyncio.create_task(queue.get())
        await settle()
        worker.cancel()
        await settle()
        queue.add("a")
        assert await ready(queue) == ["a"]

    run(test)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40), st.integers(1, 4))
def test_several_workers_process_each_key_one_at_a_time_and_miss_none(keys: list[str], workers: int) -> None:
    async def test(queue: Queue) -> None:
        at_work: set[str] = set()
        wanted, seen = dict.fromkeys("abc", 0), dict.fromkeys("abc", 0)

        async def work() -> None:
            while True:
                key = await queue.get()
                assert key not in at_work
                at_work.add(key)
                seen[key] = wanted[key]
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                at_work.discard(key)
                queue.done(key)

        tasks = [asyncio.create_task(work()) for _ in range(workers)]
        for key in keys:
            wanted[key] += 1
            queue.add(key)
            await asyncio.sleep(0)
        for _ in range(20 * len(keys)):
            await asyncio.sleep(0)
        assert seen == wanted, "the last word of every key was heard"
        assert not [task.exception() for task in tasks if task.done()]
        for task in tasks:
            task.cancel()

    run(test)


# Later.


def test_a_key_comes_when_it_is_due(clock: Clock) -> None:
    async def test(queue: Queue) -> None:
        queue.add_after("a", 10)
        async with ticking(queue):
            await settle()
            assert len(queue) == 0
        clock.now += 10
        async with ticking(queue):
            await settle()
            assert await ready(queue) == ["a"]
            await settle()
            assert len(queue) == 0

    run(test)


@pytest.mark.parametrize("delays", [(10, 60), (60, 10)])
def test_of_several_times_the_earliest_counts_and_the_key_comes_once(clock: Clock, delays: tuple[int, int]) -> None:
    async def test(queue: Queue) -> None:
        for delay in delays:
            queue.add_after("a", delay)
        clock.now += 10
        async with ticking(queue):
            await settle()
            assert await ready(queue) == ["a"]
        clock.now += 60
        async with ticking(queue):
            await settle()
            assert len(queue) == 0

    run(test)


def test_an_earlier_key_wakes_the_timer() -> None:
    async def test(queue: Queue) -> None:
        queue.add_after("late", 3600)
        async with ticking(queue):
            await settle()
            queue.add_after("soon", 0.01)
            assert await asyncio.wait_for(queue.get(), 5) == "soon"

    run(test)


def test_a_key_may_be_due_again_after_it_came(clock: Clock) -> None:
    async def test(queue: Queue) -> None:
        for _ in range(3):
            queue.add_after("a", 5)
            clock.now += 5
            async with ticking(queue):
                await settle()
                assert await ready(queue) == ["a"]

    run(test)


def test_a_time_in_the_past_is_now(clock: Clock) -> None:
    async def test(queue: Queue) -> None:
        queue.add_after("a", -5)
        async with ticking(queue):
            await settle()
            assert await ready(queue) == ["a"]

    run(test)


def test_a_key_that_is_due_while_it_is_worked_on_comes_again_afterwards(clock: Clock) -> None:
    async def test(queue: Queue) -> None:
        queue.add("a")
        await queue.get()
        queue.add_after("a", 1)
        clock.now += 1
        async with ticking(queue):
            await settle()
        assert len(queue) == 0
        queue.done("a")
        assert await ready(queue) == ["a"]

    run(test)


# Again after a failure.


def delays(queue: Queue, times: int) -> list[float]:
    """What a key waits for after each of several failures."""
    found = []
    for _ in range(times):
        before = queue._due.pop("a", None)
        assert before is None or before
        queue.retry("a")
        found.append(queue._due["a"] - workqueue.time.monotonic())
    return found


def test_retries_come_ever_later_and_never_too_late(clock: Clock) -> None:
    async def test(queue: Queue) -> None:
        found = delays(queue, 40)
        assert found[0] <= 4 * FIRST_RETRY_SECONDS
        assert all(0 < delay <= LAST_RETRY_SECONDS for delay in found)
        assert all(delay >= LAST_RETRY_SECONDS / 2 for delay in found[10:])
        assert sum(found[:3]) < sum(found[3:6]) < sum(found[6:9])

    run(test)


def test_retries_of_many_keys_are_spread(clock: Clock) -> None:
    async def test(queue: Queue) -> None:
        for number in range(20):
            queue.retry(str(number))
        assert len(set(queue._due.values())) > 10

    run(test)


def test_a_success_makes_the_next_failure_the_first(clock: Clock) -> None:
    async def test(queue: Queue) -> None:
        delays(queue, 10)
        queue.forget("a")
        assert delays(queue, 1)[0] <= 4 * FIRST_RETRY_SECONDS
        queue.forget("never seen")

    run(test)


def test_the_api_server_may_ask_for_a_longer_wait(clock: Clock) -> None:
    async def test(queue: Queue) -> None:
        queue.retry("a", at_least=300)
        assert queue._due["a"] == clock.now + 300

    run(test)


def test_news_does_not_wait_for_a_retry(clock: Clock) -> None:
    async def test(queue: Queue) -> None:
        queue.retry("a")
        queue.add("a")
        assert await ready(queue) == ["a"]

    run(test)


def test_many_keys_due_at_the_same_time_are_spread(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else all else would stand still until the last of them was looked at."""

    monkeypatch.setattr(workqueue, "BETWEEN_SECONDS", 0)

    async def test(queue: Queue) -> None:
        for number in range(1000):
            queue.add_after(f"waits-{number}", 10)
        clock.now += 10
        async with ticking(queue):
            await settle()
            assert 1 <= len(queue) <= 10
            queue.add("new")
            for _ in range(1000):
                await asyncio.sleep(0)
            assert len(await ready(queue)) == 1001

    run(test)


def test_a_failed_key_does_not_wait_for_all_due_keys(clock: Clock) -> None:
    async def test(queue: Queue) -> None:
        for number in range(100):
            queue.add_after(f"waits-{number}", 10)
        for key in ("failed-1", "failed-2"):
            queue.retry(key)
        clock.now += 1
        async with ticking(queue):
            await settle()
            clock.now += 9
            queue.add_after("wakes it", 0)
            await settle()
            assert {await queue.get(), await queue.get()} == {"failed-1", "failed-2"}

    run(test)


# Health.


def test_the_longest_work_is_known(clock: Clock) -> None:
    async def test(queue: Queue) -> None:
        assert queue.longest_work() == 0
        queue.add("a")
        queue.add("b")
        await queue.get()
        clock.now += 30
        await queue.get()
        clock.now += 5
        assert queue.longest_work() == 35
        queue.done("a")
        assert queue.longest_work() == 5
        queue.done("b")
        assert queue.longest_work() == 0

    run(test)


def test_due_keys_yield_to_keys_with_events() -> None:
    """Else an object that was made just now would wait for all those that have waited for a minute."""

    async def test(queue: Queue) -> None:
        for key in ("waits-1", "waits-2", "waits-3"):
            queue.add(key, due=True)
        queue.add("new")
        queue.add("waits-3")
        queue.add("waits-2", due=True)
        assert len(queue) == 4
        assert await ready(queue) == ["new", "waits-3", "waits-1", "waits-2"]
        queue.add("waits-3")
        assert await ready(queue) == ["waits-3"], "once for every time that it was asked for"

    run(test)


def test_due_keys_are_not_starved_by_events(clock: Clock) -> None:
    async def test(queue: Queue) -> None:
        queue.add("due", due=True)
        worked: list[str] = []
        for second in range(round(2 * GIVES_WAY_SECONDS) + 1):
            queue.add(f"new-{second}-a")
            queue.add(f"new-{second}-b")
            worked.append(await queue.get())
            queue.done(worked[-1])
            clock.now += 1
        assert worked.index("due") == 2 * GIVES_WAY_SECONDS, "it comes after all news of the time in which it gives way"

    run(test)


def test_an_overdue_key_keeps_its_turn_when_an_event_arrives(clock: Clock) -> None:
    async def test(queue: Queue) -> None:
        queue.add("due", due=True)
        clock.now += GIVES_WAY_SECONDS + 1
        for key in ("new", "due"):
            queue.add(key)
        assert await ready(queue) == ["due", "new"]

    run(test)


def test_an_event_of_a_due_key_does_not_advance_its_next_turn(clock: Clock) -> None:
    async def test(queue: Queue) -> None:
        queue.add("a", due=True)
        queue.add("a")
        assert await ready(queue) == ["a"]
        clock.now += 1
        queue.add("b", due=True)
        clock.now += 1
        queue.add("a", due=True)
        assert await ready(queue) == ["b", "a"]

    run(test)

"""What is read when it is needed: as often as it is worth it, however many ask."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tft_objects import NAMESPACE, SETTINGS, job_of

from teacher_operator.api.names import RUN, Key
from teacher_operator.decide.actions import Lookup
from teacher_operator.decide.job_state import JobView
from teacher_operator.runtime import lookups as module
from teacher_operator.runtime.lookups import Lookups
from teacher_operator.runtime.store import Store
from teacher_operator.runtime.workqueue import WorkQueue

pytestmark = pytest.mark.asyncio
MANY = 200


class Events:
    """An API server that is asked for events, and takes its time."""

    def __init__(self, told: dict[str, list[str]]) -> None:
        self.told, self.asked = told, 0

    async def warnings(self, kind: str, namespace: str) -> dict[str, list[str]]:
        self.asked += 1
        await asyncio.sleep(0.01)
        return self.told if (kind, namespace) == ("Job", NAMESPACE) else {}


def waiting_jobs(store: Store) -> list[dict[str, Any]]:
    jobs = []
    for number in range(MANY):
        job = job_of(f"run-{number}-inspect")
        job["metadata"] |= {"uid": f"uid-{number}", "labels": {**job["metadata"]["labels"], RUN: f"run-{number}"}}
        store.put("Job", job)
        jobs.append(job)
    return jobs


async def ask(lookups: Lookups, number: int) -> bool:
    return await lookups.read(Key(NAMESPACE, f"run-{number}"), [Lookup("Job", f"run-{number}-inspect")])


async def test_one_reading_of_events_serves_all_that_wait() -> None:
    store = Store()
    jobs = waiting_jobs(store)
    events = Events({"run-7-inspect": ["FailedCreate: quota"], "somebody-else": ["BackOff: no"]})
    lookups = Lookups(events, store, WorkQueue(), SETTINGS)  # type: ignore[arg-type]
    assert await asyncio.gather(*(ask(lookups, number) for number in range(MANY))) == [True] * MANY
    assert events.asked == 1
    warning_events = [lookups.complete(JobView(job)).warning_events for job in jobs]
    assert warning_events[7] == ["FailedCreate: quota"]
    assert warning_events[8] == [], "its events were read, and there are none"
    assert not await ask(lookups, 7), "it is known"


async def test_events_are_read_again_when_they_are_old(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WARNINGS_SECONDS", "READING_SECONDS", "READING_SHARE"):
        monkeypatch.setattr(module, name, 1e9 if name == "READING_SHARE" else 0.0)
    store = Store()
    jobs = waiting_jobs(store)
    events = Events({})
    lookups = Lookups(events, store, WorkQueue(), SETTINGS)  # type: ignore[arg-type]
    assert await ask(lookups, 7)
    events.told = {"run-7-inspect": ["FailedCreate: quota"]}
    assert await ask(lookups, 7)
    monkeypatch.setattr(module, "WARNINGS_SECONDS", 50.0)
    assert lookups.complete(JobView(jobs[7])).warning_events == ["FailedCreate: quota"]
    assert events.asked == 2

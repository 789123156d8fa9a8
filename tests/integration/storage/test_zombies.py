"""Two real processes publish the same run; one is stopped at a random request of its upload, and wakes up later."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from threading import Event

import psutil
import pytest
from faulty_s3 import Fault, FaultyS3, Handler, Request
from runs import TINY, manifest, teacher, write_parts

from engine.config import from_yaml
from engine.layout import ADAPTER, RunLayout
from engine.plan import TrainingRun
from engine.results.run_files import RunMetadata, fetch_run, read_metadata
from engine.results.types import TeacherResult
from engine.spec import TeacherName
from engine.storage import Storage, StorageOptions, join
from engine.training import publish

SAM = {"name": "Sam", "baseModel": str(TINY / "sam"), "epochs": 1}
SEEDS = int(os.environ.get("ZOMBIE_SEEDS", "5"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingRun, Path]:
    """A run that was trained, and what its process had at hand when it began to publish."""
    folder = tmp_path_factory.mktemp("trained")
    file = manifest(folder, data=str(write_parts(folder / "data")), output="out", teachers=[SAM])
    arguments = ("run", "-f", str(file), "--work-dir", str(folder / "work"), "--progress", "json")
    root = folder / teacher(*arguments, cwd=folder).stdout.splitlines()[-1]
    run = TrainingRun(TeacherName.SAM, from_yaml((root / "teacher_config.yaml").read_text()))
    shutil.copy(root / "dataset.json", folder / "work")
    return run, folder / "work"


def attempt(run: TrainingRun, work: Path, mark: int, folder: Path) -> tuple[TeacherResult, Path]:
    """The work folder of an attempt that came to something else in every file, and says so in each."""
    shutil.copytree(work, folder)
    teacher_folder = Path(RunLayout(str(folder)).teacher(run.teacher))
    for path in [*teacher_folder.rglob("*"), *Path(RunLayout(str(folder)).logs(run.teacher)).rglob("*")]:
        if path.is_file():
            with path.open("ab") as file:
                file.write(b" " * mark)  # JSON and images stay what they are
    content = (teacher_folder / ADAPTER).read_bytes()
    result = TeacherResult.model_validate_json((teacher_folder / "result.json").read_bytes())
    adapter = result.adapter.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
    return result.model_copy(update={"adapter": adapter, "seconds": float(mark)}), folder


def publishes(run: TrainingRun, result: TeacherResult, work: Path, endpoint: str) -> None:
    """What `teacher train` does when the training has ended."""
    storage = Storage(StorageOptions(endpoint_url=endpoint))
    publish._publish_teacher(result, run, storage=storage, work_dir=work)
    publish.publish_run(run.config, storage=storage)


def stop_at(proxy: FaultyS3, number: int, process: psutil.Process, *, hold: bool) -> Event:
    """Stop a process when this request of it arrives; the request may be on its way until the event is set."""
    proxy.requests.clear()
    go = Event()

    def late(handler: Handler, request: Request) -> None:
        go.wait(120)
        handler.send(handler.store(request))

    def choose(_: Request) -> Fault | None:
        if len(proxy.requests) != number:
            return None
        process.suspend()
        return late if hold else None

    proxy.before = choose
    return go


@pytest.mark.slow
def test_whatever_wakes_up_when_a_run_is_one_attempts(
    s3: str, s3_server: str, proxy: FaultyS3, trained: tuple[TrainingRun, Path], tmp_path: Path
) -> None:
    planned, work = trained
    context = multiprocessing.get_context("fork")
    storage, tally, stopped = Storage(), Counter[str](), []
    for seed in range(SEEDS):
        random = Random(seed)
        run = TrainingRun(planned.teacher, planned.config.model_copy(update={"output": f"{s3}/{seed}"}))
        storage.upload(work / "dataset.json", run.layout.dataset)
        (zombie, zombies_work), (following, its_work) = (
            attempt(run, work, mark, tmp_path / f"{seed}-{mark}") for mark in (1, 2)
        )
        proxy.before = lambda _: None
        late = context.Process(target=publishes, args=(run, zombie, zombies_work, proxy.url))
        at, hold = random.randrange(1, random.choice((25, 75))), random.random() < 0.5  # the commit is near the 25th
        late.start()
        process = psutil.Process(late.pid)
        go = stop_at(proxy, at, process, hold=hold)
        while late.is_alive() and process.status() != psutil.STATUS_STOPPED:
            late.join(0.01)
        stopped.append(late.is_alive())
        other = context.Process(target=publishes, args=(run, following, its_work, s3_server))
        other.start()
        if random.random() < 0.3:  # it wakes up while the other publishes, not after
            other.join(random.random() * 0.3)
            go.set()
            wake(late)
        other.join(120)
        assert other.exitcode == 0
        before = state(run.layout, storage) if stopped[-1] and not go.is_set() else None
        go.set()
        wake(late)
        late.join(120)
        assert late.exitcode == 0
        after = state(run.layout, storage)
        assert before in (None, after)
        tally[after] += 1
        fetched = tmp_path / f"{seed}-fetched"
        fetch_run(run.layout, fetched, storage=storage)
        shutil.rmtree(fetched)
    assert set(tally) == {"1.0", "2.0"}
    assert sum(stopped) > SEEDS // 2
    print(f"{SEEDS} pairs of processes, {sum(stopped)} stopped in their upload; published by attempt: {dict(tally)}")


def wake(process: BaseProcess) -> None:
    if process.is_alive():
        os.kill(process.pid or 0, signal.SIGCONT)


def state(layout: RunLayout, storage: Storage) -> str:
    """Which attempt's run it is, whole and unmixed."""
    metadata: RunMetadata = read_metadata(layout, storage)
    (result,) = metadata.teachers
    mark = int(result.seconds)
    for entry in metadata.files:
        content = storage.read_bytes(join(layout.root, entry.path))
        assert hashlib.sha256(content).hexdigest() == entry.sha256, entry.path
        of_teacher = entry.path.startswith(("teachers/", "logs/"))
        if of_teacher and not entry.path.endswith(("README.md", "result.json")):
            assert len(content) - len(content.rstrip(b" ")) == mark, entry.path
    assert result.adapter.sha256 in storage.read_bytes(join(layout.teacher(result.teacher), "README.md")).decode()
    assert json.loads(storage.read_bytes(layout.metrics))["teachers"] == [json.loads(result.model_dump_json())]
    listed = {item.key for item in storage.list(layout.root) if not item.key.startswith("attempts/")}
    assert listed == {entry.path for entry in metadata.files} | {"metadata.json"}
    return str(result.seconds)

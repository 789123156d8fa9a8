"""A trainer in a process of its own that dies at a chosen moment: at any of its file operations, or of its steps."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from engine.cli.signals import end_by_signal, sigterm_as_error
from engine.config import RunConfig
from engine.errors import TeacherError
from engine.layout import RunLayout
from engine.plan import TrainingRun
from engine.processes.signals import handle_stop
from engine.registry import ModelName, TeacherName
from engine.results.events import Event
from engine.storage import Storage
from engine.training.publish import train_and_publish

WRITES = frozenset({"os.rename", "os.remove", "os.link", "os.mkdir"})


class Moments:
    """Counts the moments of this process at which something becomes visible to others; at one of them it dies.

    Args:
        folder: Changes below it count, and so do requests to a store.
        die_at: Number of the moment, from 1; 0: never.
        by: The signal.
    """

    def __init__(self, folder: Path, *, die_at: int, by: signal.Signals) -> None:
        self.folder, self.die_at, self.by = str(folder), die_at, by
        self.count = 0
        sys.addaudithook(self._on_audit)  # cannot be taken away: for a process that is about to end

    def one(self) -> None:
        """This is one."""
        self.count += 1
        if self.count == self.die_at:
            os.kill(os.getpid(), self.by)

    def _on_audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in WRITES or (event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")):
            if str(arguments[0]).startswith(self.folder):
                self.one()
        elif event in {"http.client.connect", "http.client.send"}:
            self.one()


def _train(config: RunConfig, name: ModelName, work: Path, moments: Callable[[], Moments], told: Any) -> None:
    torch.set_num_threads(1)
    counted = moments()

    def listen(event: Event) -> None:
        counted.one()

    handle_stop(end_by_signal)  # as the command line does
    try:
        with sigterm_as_error():
            train_and_publish(
                TrainingRun(name, config),
                storage=Storage(),
                listener=listen,
                work_dir=work,
                cache=work / "cache",
            )
    except TeacherError as error:
        told.send((counted.count, str(error)))
        os._exit(error.exit_code)
    told.send((counted.count, ""))
    os._exit(0)


def attempt(
    config: RunConfig,
    work: Path,
    *,
    teacher: ModelName = TeacherName.GROUNDING_DINO,
    die_at: int = 0,
    by: signal.Signals = signal.SIGKILL,
) -> tuple[int, int, str]:
    """One attempt of a training run: its exit code, how many moments it had, and what it said.

    Of an attempt that was killed only the exit code is known.
    """
    folder = Path(os.path.commonpath([work, config.output])) if not config.output.startswith("s3://") else work

    def moments() -> Moments:
        return Moments(folder, die_at=die_at, by=by)

    context = get_context("fork")
    told, tell = context.Pipe(duplex=False)
    process = context.Process(target=_train, args=(config, teacher, work, moments, tell))
    process.start()
    tell.close()
    try:
        count, said = told.recv()
    except EOFError:
        count, said = 0, ""
    process.join(timeout=300)
    assert process.exitcode is not None, "the trainer did not end"
    return process.exitcode, count, said


def published(config: RunConfig) -> dict[str, Any]:
    """What must not depend on how often a run was stopped: bytes of adapters, numbers of metrics, the listing."""
    layout, storage = RunLayout.of(config), Storage()
    metadata = json.loads(storage.read_bytes(layout.metadata))
    paths = [file["path"] for file in metadata["files"] if "tfevents" not in file["path"]]
    found: dict[str, Any] = {"files": sorted(paths)}
    for file in metadata["files"]:
        if file["path"].endswith((".safetensors", "samples.json", "teacher.json", "student.json")):
            found[file["path"]] = file["sha256"]
    for result in json.loads(storage.read_bytes(layout.metrics))["teachers"]:
        for name in ("seconds", "peak_memory_bytes", "adapter"):
            result.pop(name)
        found[result["teacher"]] = result
    return found

"""``last/``: what a run needs to go on, in object storage too, so that another machine can."""

from __future__ import annotations

from pathlib import Path

from engine.artifacts import ADAPTER, ADAPTER_CONFIG
from engine.storage import Storage, join
from engine.teachers.lora import TEACHER
from engine.training.checkpoint import newest_first, outdated, read_checkpoint, step_of
from engine.training.detected import DETECTED, DETECTOR

BEST = "best"
"""Folder below ``last/`` of the best adapter of a run that failed for good."""


def fetch_last(storage: Storage, uri: str, last: Path) -> None:
    """Bring the newest whole checkpoint in storage here, if it is further than those that are here."""
    here = newest_first(path.name for path in last.iterdir()) if last.is_dir() else []
    known = next((step_of(name) or 0 for name in here if read_checkpoint(last / name) is not None), -1)
    there = {item.key for item in storage.list(uri)}
    for name in newest_first(there):
        if (step_of(name) or 0) <= known:
            return
        checkpoint = read_checkpoint(storage.download(join(uri, name), last / name))
        if checkpoint is not None:
            boxes = DETECTED.format(checkpoint.settings.get(DETECTOR))
            if boxes in there:
                storage.download(join(uri, boxes), last / boxes)
            return


def keep_best(folder: Path, *, storage: Storage, uri: str) -> str | None:
    """Bring the best adapter of a run that cannot be ended into storage; where it lies, if there is one."""
    files = [folder / name for name in (ADAPTER_CONFIG, TEACHER, ADAPTER)]
    if not all(file.is_file() for file in files):
        return None
    for file in files:
        storage.upload(file, join(uri, BEST, file.name))
    return join(uri, BEST)


def keep_last(checkpoint: Path, *, storage: Storage, uri: str) -> None:
    """Bring a checkpoint into storage, after the boxes that it goes with, and remove those that it replaces."""
    there = {item.key for item in storage.list(uri)}
    for boxes in checkpoint.parent.glob(DETECTED.format("*")):
        if boxes.name not in there:
            storage.upload(boxes, join(uri, boxes.name))
    storage.upload(checkpoint, join(uri, checkpoint.name))
    for name in outdated(there | {checkpoint.name}, step_of(checkpoint.name) or 0):
        storage.delete(join(uri, name))

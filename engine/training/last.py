"""``last/``: what a run needs to go on, in object storage too, so that another machine can."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engine.artifacts import ADAPTER, ADAPTER_CONFIG
from engine.storage import Storage, join
from engine.storage.publication import sha256_of
from engine.teachers.lora import TEACHER
from engine.training.checkpoint import Checkpoint, load_checkpoint, newest_first, outdated, read_checkpoint, step_of
from engine.training.detected import DETECTED, DETECTOR

BEST = "best"
"""Folder below ``last/`` of the best adapter of a run that failed for good."""


def last_checkpoint(last: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint of those that are here; what it is, and that there are damaged ones, is said."""
    damaged: list[Path] = []
    checkpoint = load_checkpoint(last, damaged.append)
    for path in damaged:
        path.replace(path.with_suffix(".damaged"))  # not to be counted among those that are kept
        say(f"{path} is damaged, or of another version: it is not used")
    if checkpoint is not None:
        say(f"going on after step {checkpoint.progress.step}")
    elif damaged:
        say("no checkpoint is whole: starting from the beginning")
    return checkpoint


def fetch_last(storage: Storage, uri: str, last: Path) -> None:
    """Bring the newest whole checkpoint in storage here, if it is further than those that are here.

    The boxes that a checkpoint goes with come before it: whoever finds it here finds them too.
    """
    there = {item.key for item in storage.list(uri)}
    known = load_checkpoint(last)
    for name in newest_first(there):
        if known is not None and (step_of(name) or 0) <= known.progress.step:
            break
        coming = storage.download(join(uri, name), last / f".coming-{name}")
        checkpoint = read_checkpoint(coming)
        if checkpoint is None:
            coming.unlink()
            continue
        _fetch_boxes(checkpoint, there, storage, uri, last)
        coming.replace(last / name)
        return
    if known is not None:
        _fetch_boxes(known, there, storage, uri, last)


def _fetch_boxes(checkpoint: Checkpoint, there: set[str], storage: Storage, uri: str, last: Path) -> None:
    digest = checkpoint.settings.get(DETECTOR)
    boxes = DETECTED.format(digest)
    here = last / boxes
    if boxes in there and not (here.is_file() and sha256_of(here) == digest):
        storage.download(join(uri, boxes), here)


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

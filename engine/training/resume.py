"""``last/``: what a run needs to go on, in object storage too, so that another machine can."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engine.artifacts import ADAPTER, ADAPTER_CONFIG
from engine.base_identity import base_digest
from engine.config import RunConfig
from engine.dataset.readable import Unreadable
from engine.errors import ConfigError, DataError
from engine.spec import TeacherName
from engine.storage import Storage, join
from engine.storage.publication import sha256_of
from engine.teachers import LocalModel
from engine.teachers.lora import TEACHER
from engine.training.box_prompts import DETECTED, DETECTOR, DetectedBoxes
from engine.training.checkpoint import Checkpoint, load_checkpoint, newest_first, outdated, read_checkpoint, step_of
from engine.training.distributed import Processes
from engine.training.splits import Splits

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


INDECISIVE = ("base_model", "base_digest", "revision", "checkpointing")
"""Settings of a teacher that have no part in the result, or one that is told otherwise."""

BASE_PARTS = "base_parts"
"""Setting of a checkpoint: digests of the base's other files. Earlier versions did not record them."""

UNREADABLE = "unreadable_images"
"""Setting of a checkpoint: which images are left out."""


def run_fingerprint(
    config: RunConfig, name: TeacherName, *, base: LocalModel, splits: Splits, detected: DetectedBoxes | None
) -> dict[str, Any]:
    """Every setting that has a part in the result; where things lie has none."""
    plain = config.model_dump(mode="json")
    data, training, settings = plain["data"], plain["training"], plain["teachers"][name.slug]
    return {
        "data": {key: data[key] for key in ("digest", "classes", "prompts", "split", "group_by")}
        | {"images_digest": splits.images_digest},
        "augmentation": plain["augmentation"],
        "training": {key: training[key] for key in ("seed", "precision", "patience", "class_balance")}
        | {"features": training["features_gb"] > 0},
        f"teachers.{name.slug}": {k: v for k, v in settings.items() if k not in INDECISIVE},
        "base_sha256": base.sha256,
        BASE_PARTS: dict(base.parts),
        "base_revision": base.revision,
        UNREADABLE: splits.unreadable.digest,
        **({} if detected is None else {DETECTOR: detected.digest}),
    }


def check_same_run(folder: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """A checkpoint in ``folder`` was written under what decides ``now`` too.

    Raises:
        ConfigError: Something was set otherwise; says what.
    """
    if BASE_PARTS not in then:
        now = {key: value for key, value in now.items() if key != BASE_PARTS}
    old, new = flat(then), flat(now)
    changed = [f"{k} was {old.get(k)!r} and is {new.get(k)!r}" for k in old | new if old.get(k) != new.get(k)]
    if changed:
        raise ConfigError(
            f"{folder} is a checkpoint of another configuration: {'; '.join(changed)}. "
            "Set them back to go on, or delete the folder to begin anew"
        )


def check_planned_base(name: str, planned: str | None, *, storage: Storage) -> None:
    """The base model is the one that the run was planned with, where that is known.

    Raises:
        ConfigError: A file of it has changed.
    """
    if planned is not None and base_digest(name, storage=storage) not in (
        planned,
        None,
    ):  # one that is gone is reported
        raise ConfigError(
            f"the base model {name} has changed since this run was planned: bring its files back as they were, or "
            "start again from the manifest, which makes another run of it"
        )


def check_same_base(name: str, base: LocalModel, processes: Processes) -> None:
    """All processes have the same base model.

    Raises:
        ConfigError: This one has another than the first.
    """
    first = processes.decided(lambda: base.digest)
    if base.digest != first:
        raise ConfigError(
            f"the base model {name} is not the same on all machines (digest {first[:12]}… on the first, "
            f"{base.digest[:12]}… here): set its revision to a commit"
        )


def check_same_images(begun: Mapping[str, Any], unreadable: Unreadable) -> None:
    """The images that are left out are those of the checkpoint.

    Raises:
        DataError: Others are.
    """
    if begun.get(UNREADABLE) != unreadable.digest:
        examples = "; ".join(unreadable.examples) or "all can be now"
        raise DataError(
            f"images have been damaged, or mended, since the run began, of which other images were left out: "
            f"{examples}. Bring them back as they were, or begin anew (`teacher run --again`)"
        )


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their path.

    >>> flat({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        found |= flat(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return found

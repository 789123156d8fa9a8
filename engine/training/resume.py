"""Resume a run from ``last/``, on another machine too, if nothing that determines the result has changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from engine.config import RunConfig
from engine.config.base import outside_run_id
from engine.config.trials import flat
from engine.dataset.checks.unreadable_images import Unreadable
from engine.errors import ConfigError, DataError
from engine.layout import (
    ADAPTER,
    ADAPTER_CARD,
    ADAPTER_CONFIG,
    BEST,
    DETECTED_BOXES,
    LAST,
    STUDENT_CARD,
    checkpoint_step,
)
from engine.models.base_sources import WEIGHTS, LocalModel
from engine.registry import ModelName
from engine.storage import Storage, join
from engine.storage.base_model_identity import CONFIG, base_digest
from engine.storage.publication import sha256_of
from engine.training.checkpoint import Checkpoint, load_checkpoint, newest_first, outdated, read_checkpoint
from engine.training.data.box_prompts import DETECTOR, DetectedBoxes
from engine.training.data.splits import Splits
from engine.training.distributed import Processes


def last_checkpoint(last: Path, note: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest intact checkpoint in the folder and report it; damaged ones are renamed and reported."""
    damaged: list[Path] = []
    checkpoint = load_checkpoint(last, damaged.append)
    for path in damaged:
        path.replace(path.with_suffix(".damaged"))  # so that it does not count among the kept checkpoints
        note(f"{path} is damaged or of another version: ignoring it")
    if checkpoint is not None:
        note(f"resuming after step {checkpoint.progress.step}")
    elif damaged:
        note("no checkpoint is readable: starting from the beginning")
    return checkpoint


def fetch_checkpoints(storage: Storage, uri: str, last: Path) -> None:
    """Download the newest intact checkpoint of each training of a teacher if it is further than the local ones.

    Its detected boxes are downloaded first, so that a local checkpoint always has its boxes.
    """
    keys = {item.key for item in storage.list(uri)}
    boxes = partial(_fetch_boxes, there=keys, storage=storage, uri=uri, last=last)
    folders = {key.rpartition("/")[0] for key in keys if checkpoint_step(key.rpartition("/")[2]) is not None}
    for own in sorted({""} | folders):
        there = {key.removeprefix(f"{own}/") for key in keys if key.startswith(f"{own}/")} if own else keys
        _fetch_newest(storage, join(uri, own) if own else uri, last / own, there, boxes)


def _fetch_newest(
    storage: Storage, uri: str, folder: Path, there: set[str], fetch_boxes: Callable[[Checkpoint], None]
) -> None:
    known = load_checkpoint(folder)
    for name in newest_first(there):
        if known is not None and (checkpoint_step(name) or 0) <= known.progress.step:
            break
        coming = storage.download(join(uri, name), folder / f".coming-{name}")
        checkpoint = read_checkpoint(coming)
        if checkpoint is None:
            coming.unlink()
            continue
        fetch_boxes(checkpoint)
        coming.replace(folder / name)
        return
    if known is not None:
        fetch_boxes(known)


def _fetch_boxes(checkpoint: Checkpoint, there: set[str], storage: Storage, uri: str, last: Path) -> None:
    digest = checkpoint.settings.get(DETECTOR)
    boxes = DETECTED_BOXES.format(digest)
    here = last / boxes
    if boxes in there and not (here.is_file() and sha256_of(here) == digest):
        storage.download(join(uri, boxes), here)


def upload_best_adapter(folder: Path, *, storage: Storage, uri: str) -> str | None:
    """Upload the best adapter or student of a failed run; return its URI, or None if the run has none."""
    kinds = ((ADAPTER_CONFIG, ADAPTER_CARD, ADAPTER), (CONFIG, STUDENT_CARD, WEIGHTS))
    whole = [[folder / name for name in names] for names in kinds if all((folder / name).is_file() for name in names)]
    if not whole:
        return None
    files = whole[0]
    for file in files:
        storage.upload(file, join(uri, BEST, file.name))
    return join(uri, BEST)


def upload_checkpoint(checkpoint: Path, *, storage: Storage, uri: str) -> None:
    """Upload a checkpoint, after its detected boxes, and delete outdated checkpoints of the same training.

    Args:
        checkpoint: The file, in the folder of the checkpoints or in that of a trial there.
        storage: Access to the location.
        uri: Location of all checkpoints of the teacher.
    """
    last = next((folder for folder in checkpoint.parents if folder.name == LAST), checkpoint.parent)
    own = "" if checkpoint.parent == last else f"{checkpoint.parent.name}/"
    there = {item.key for item in storage.list(uri)}
    for boxes in last.glob(DETECTED_BOXES.format("*")):
        if boxes.name not in there:
            storage.upload(boxes, join(uri, boxes.name))
    storage.upload(checkpoint, join(uri, own + checkpoint.name))
    mine = {key.removeprefix(own) for key in there if key.startswith(own)} | {checkpoint.name}
    for name in outdated(mine, checkpoint_step(checkpoint.name) or 0):
        storage.delete(join(uri, own + name))


OF_BASE = frozenset({"base_model", "base_digest", "revision"})
"""Settings of a teacher that the fingerprint records in another form: digests of the files of the base."""

BASE_PARTS = "base_parts"
"""Setting of a checkpoint: digests of the base's other files. Earlier versions did not record them."""

UNREADABLE = "unreadable_images"
"""Setting of a checkpoint: digest of the skipped images."""


def run_fingerprint(
    config: RunConfig, name: ModelName, *, base: LocalModel, splits: Splits, detected: DetectedBoxes | None
) -> dict[str, Any]:
    """Return all settings that affect the result; locations are not among them."""
    plain = config.model_dump(mode="json")
    outside = outside_run_id(name.traits.settings) | OF_BASE
    data, training, settings = plain["data"], plain["training"], plain[name.section][name.slug]
    return {
        "data": {key: data[key] for key in ("digest", "classes", "prompts", "split", "group_by")}
        | {"images_digest": splits.images_digest},
        "augmentation": plain["augmentation"],
        "training": {key: training[key] for key in ("seed", "precision", "patience", "class_balance")}
        | {"features": training["features_gb"] > 0},
        name.path: {k: v for k, v in settings.items() if k not in outside},
        "base_sha256": base.sha256,
        BASE_PARTS: dict(base.parts),
        "base_revision": base.revision,
        UNREADABLE: splits.unreadable.digest,
        **({} if splits.human is None else {"labels": _labels(plain["labels"], splits)}),
        **({} if detected is None else {DETECTOR: detected.digest}),
    }


def _labels(labels: Mapping[str, Any], splits: Splits) -> dict[str, Any]:
    images = len(splits.train.paths) - (splits.human or 0)
    return {key: labels[key] for key in ("digest", "human_share", "min_score", "soft_scores")} | {"images": images}


def check_same_run(folder: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that the checkpoint in ``folder`` has the fingerprint ``now``.

    Raises:
        ConfigError: A setting differs; the message names it.
    """
    if BASE_PARTS not in then:
        now = {key: value for key, value in now.items() if key != BASE_PARTS}
    old, new = flat(then), flat(now)
    changed = [f"{k} was {old.get(k)!r} and is {new.get(k)!r}" for k in old | new if old.get(k) != new.get(k)]
    if changed:
        raise ConfigError(
            f"{folder} is a checkpoint of another configuration: {'; '.join(changed)}. "
            "Restore these settings to resume, or delete the folder to start again"
        )


def check_planned_base(name: str, planned: str | None, *, storage: Storage) -> None:
    """Check that the base model is the one recorded when the run was planned, if one was recorded.

    Raises:
        ConfigError: A file of it has changed.
    """
    if planned is not None and base_digest(name, storage=storage) not in (
        planned,
        None,
    ):  # one that is gone is reported
        raise ConfigError(
            f"the base model {name} has changed since this run was planned: restore its files, or start again from "
            "the manifest, which creates another run"
        )


def check_same_base(name: str, base: LocalModel, processes: Processes) -> None:
    """Check that all processes have the same base model.

    Raises:
        ConfigError: This process has another one than the first.
    """
    first = processes.decided(lambda: base.digest)
    if base.digest != first:
        raise ConfigError(
            f"the base model {name} is not the same on all machines (digest {first[:12]}… on the first, "
            f"{base.digest[:12]}… here): set its revision to a commit"
        )


def check_same_images(begun: Mapping[str, Any], unreadable: Unreadable) -> None:
    """Check that the skipped images are those of the checkpoint.

    Raises:
        DataError: Other images are skipped now.
    """
    if begun.get(UNREADABLE) != unreadable.digest:
        examples = "; ".join(unreadable.examples) or "none is unreadable now"
        raise DataError(
            f"images were damaged or repaired since the run began, which skipped other images: {examples}. Restore "
            "them, or start again (`teacher run --again`, again=True)"
        )

"""What decides a run: a checkpoint of another one must not be gone on with, and all processes train the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.base_identity import base_digest
from engine.config import RunConfig
from engine.dataset.readable import Unreadable
from engine.errors import ConfigError, DataError
from engine.spec import TeacherName
from engine.storage import Storage
from engine.teachers import LocalModel
from engine.training.detected import DETECTOR, Detected
from engine.training.parts import Parts
from engine.training.processes import Processes

INDECISIVE = ("base_model", "base_digest", "revision", "checkpointing")
"""Settings of a teacher that have no part in the result, or one that is told otherwise."""

BASE_PARTS = "base_parts"
"""Setting of a checkpoint: digests of the base's other files. Earlier versions did not record them."""

UNREADABLE = "unreadable_images"
"""Setting of a checkpoint: which images are left out."""


def decisive(
    config: RunConfig, name: TeacherName, *, base: LocalModel, parts: Parts, detected: Detected | None
) -> dict[str, Any]:
    """Every setting that has a part in the result; where things lie has none."""
    plain = config.model_dump(mode="json")
    data, training, settings = plain["data"], plain["training"], plain["teachers"][name.slug]
    return {
        "data": {key: data[key] for key in ("digest", "classes", "prompts", "split", "group_by")}
        | {"images_digest": parts.images_digest},
        "augmentation": plain["augmentation"],
        "training": {key: training[key] for key in ("seed", "precision", "patience", "class_balance")}
        | {"features": training["features_gb"] > 0},
        f"teachers.{name.slug}": {k: v for k, v in settings.items() if k not in INDECISIVE},
        "base_sha256": base.sha256,
        BASE_PARTS: dict(base.parts),
        "base_revision": base.revision,
        UNREADABLE: parts.unreadable.digest,
        **({} if detected is None else {DETECTOR: detected.digest}),
    }


def check_same(folder: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
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

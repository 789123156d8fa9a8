"""Section ``data`` of the configuration, from the request and the inspection of the data. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.dataset.checks.problem_catalogue import SEEN_WHEN_OPENED
from engine.dataset.types import DatasetInfo
from engine.errors import ConfigError
from engine.spec import DatasetSpec, OnProblem, SplitFilesSpec, SplitSpec
from engine.text.pydantic_errors import nearest

Plain = dict[str, Any]


def train_images(info: DatasetInfo, dataset: DatasetSpec) -> int:
    """Return the number of training images."""
    if "train" in info.splits:
        folds = None if dataset.split is None else dataset.split.folds
        return info.splits["train"] - (0 if folds is None else info.splits["train"] // folds)
    split = dataset.split or SplitSpec()
    return max(1, info.images * split.shares["train"] // 100)


def data_section(info: DatasetInfo, dataset: DatasetSpec, prompts: Mapping[str, str]) -> Plain:
    """Return the section as plain values.

    Args:
        info: Result of the inspection of the data.
        dataset: Section of the request.
        prompts: Better phrases for some class names.

    Raises:
        ConfigError: The request contradicts the data.
    """
    classes = [c.name for c in info.classes if c.annotations]
    for phrase in prompts:
        if phrase not in classes:
            raise ConfigError(f"classPrompts has {phrase!r}, but the dataset no such class{nearest(phrase, classes)}")
    opened = sum(p.count for p in info.problems if p.code in SEEN_WHEN_OPENED)  # training opens these as well
    source = None
    if dataset.annotations is not None:
        source = {"annotations": dataset.annotations, "images": dataset.images}
    return {
        "digest": info.digest,
        "images_digest": info.images_digest or None,
        "images": info.images + opened,
        "images_left_out": max(0, info.images_read - info.images - opened),
        "classes": classes,
        "prompts": dict(prompts),
        "source": source,
        "split": _split(info, dataset),
        "train": _split_files(dataset.train, dataset),
        "val": _split_files(dataset.val, dataset),
        "test": _split_files(dataset.test, dataset),
        "crowds": dataset.crowds.value,
        "exif_orientation": dataset.exif_orientation.value,
        "group_by": dataset.group_by,
        "max_leaked_percent": dataset.max_leaked_percent,
        "max_skipped_percent": 0 if dataset.on_problem is OnProblem.FAIL else dataset.max_skipped_percent,
    }


def _split(info: DatasetInfo, dataset: DatasetSpec) -> Plain | None:
    """Return the division of data that is not split, or of the training split into folds.

    Raises:
        ConfigError: Folds are requested of data with a validation split.
    """
    split = dataset.split or SplitSpec()
    if split.folds is not None and "val" in info.splits:
        raise ConfigError(
            f"dataset.split.folds divides data without a validation split, and {info.source} has one: leave folds out, "
            "or give one annotation file with all images"
        )
    if split.folds is None and (dataset.train is not None or "train" in info.splits):
        return None
    return {**split.shares, "folds": split.folds}


def _split_files(files: SplitFilesSpec | None, dataset: DatasetSpec) -> Plain | None:
    if files is None:
        return None
    return {"annotations": files.annotations, "images": files.images or dataset.images}

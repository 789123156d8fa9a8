"""Divide the images of a dataset into train, val and test: :func:`split_dataset`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np
from numpy.typing import NDArray

from engine.dataset.types import CocoDataset
from engine.errors import ConfigError, DataError

SPLIT_NAMES = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Image indices of each split, sorted. Each image is in exactly one split.

    Attributes:
        train: Images to train on.
        val: Images to choose the best epoch on.
        test: Images for the final evaluation, used for neither training nor choosing.
        rare: Splits by class, for classes that do not occur in every split.
    """

    train: list[int]
    val: list[int]
    test: list[int]
    rare: dict[int, tuple[str, ...]] = field(default_factory=dict)


def split_dataset(
    data: CocoDataset | Sequence[Sequence[int]],
    fractions: Mapping[str, float],
    *,
    seed: int,
    stratify: bool = True,
    groups: Sequence[int] | NDArray[np.int64] | None = None,
) -> Split:
    """Divide images so that every split has its share of every class, by iterative stratification.

    K. Sechidis, G. Tsoumakas, I. Vlahavas: On the Stratification of Multi-Label Data, ECML PKDD 2011: the class with
    the fewest remaining images is assigned first, each image to the split that lacks most of this class, then to the
    split that lacks most images, then at random. There are two additions: images without objects are assigned first, as
    a class of their own, and no split takes more images than its share, so that sizes are exact. Images of one group go
    to one split, the largest groups first; sizes are then as exact as the groups allow.

    Args:
        data: A dataset, or the classes of each image.
        fractions: Fraction of the images of train, val and test; a split left out is empty.
        seed: The same seed on the same data gives the same split, on any machine.
        stratify: False to assign images at random.
        groups: Group number per image; images of one group stay in the same split. None: each image is a group.

    Raises:
        ConfigError: The fractions are negative or do not add up to 1.
        DataError: There are fewer groups than splits.
    """
    shares = [float(fractions.get(split, 0)) for split in SPLIT_NAMES]
    unknown = sorted(set(fractions) - set(SPLIT_NAMES))
    if unknown or min(shares) < 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        given = ", ".join(f"{split} {share:g}" for split, share in fractions.items())
        raise ConfigError(f"the fractions of train, val and test must add up to 1, found {given}")
    classes = _classes(data)
    rng = Random(seed)
    sizes = _sizes(len(classes), shares)
    units = _units(groups, len(classes))
    if len(units) == len(classes):
        split_of = _stratified(classes, units, sizes, rng) if stratify else _by_lot(sizes, rng)
    else:
        _check_groups(len(units), len(classes), sizes)
        # At random: all images are of one class.
        split_of = _stratified(classes if stratify else [(0,)] * len(classes), units, sizes, rng)
        _fill_empty(split_of, units, sizes)
    members: dict[str, list[int]] = {split: [] for split in SPLIT_NAMES}
    for image, split in enumerate(split_of):
        members[SPLIT_NAMES[split]].append(image)
    rare = _rare(classes, split_of, [split for split, size in enumerate(sizes) if size])
    return Split(train=members["train"], val=members["val"], test=members["test"], rare=rare)


def stratified_folds(
    data: CocoDataset | Sequence[Sequence[int]],
    folds: int,
    *,
    seed: int,
    groups: Sequence[int] | NDArray[np.int64] | None = None,
) -> list[list[int]]:
    """Divide images into folds of equal size, each with its share of every class, as :func:`split_dataset` does.

    Args:
        data: A dataset, or the classes of each image.
        folds: Number of folds.
        seed: The same seed on the same data gives the same folds, on any machine.
        groups: Group number per image; images of one group stay in the same fold. None: each image is a group.

    Returns:
        The sorted image indices of each fold.

    Raises:
        DataError: There are fewer groups than folds.
    """
    classes = _classes(data)
    units, sizes = _units(groups, len(classes)), _sizes(len(classes), [1 / folds] * folds)
    if len(units) < folds:
        raise DataError(
            f"the {len(classes):,} images form {len(units):,} groups that must not be divided (dataset.groupBy, or "
            f"versions of the same picture), too few for {folds} folds: add other images, or lower dataset.split.folds"
        )
    fold_of = _stratified(classes, units, sizes, Random(seed))
    _fill_empty(fold_of, units, sizes)
    return [[image for image, fold in enumerate(fold_of) if fold == number] for number in range(folds)]


def _classes(data: CocoDataset | Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Return the sorted classes of each image; images of the same classes share a tuple."""
    if isinstance(data, CocoDataset):
        data = [[found.class_index for found in objects if not found.iscrowd] for objects in data.annotations]
    shared: dict[tuple[int, ...], tuple[int, ...]] = {}
    return [shared.setdefault(found, found) for found in (tuple(sorted(set(labels))) for labels in data)]


def _sizes(count: int, shares: list[float]) -> list[int]:
    """Return the number of images of each split: rounded so that they add up, and at least one if there are enough."""
    exact = [count * share for share in shares]
    # A billionth more, since 0.7 * 10 is below 7.
    sizes = [math.floor(size + 1e-9) for size in exact]
    by_rest = sorted(range(len(shares)), key=lambda split: sizes[split] - exact[split])
    for split in by_rest[: count - sum(sizes)]:
        sizes[split] += 1
    for split, share in enumerate(shares):
        most = max(range(len(sizes)), key=sizes.__getitem__)
        if share > 0 and sizes[split] == 0 and sizes[most] > 1:
            sizes[split] += 1
            sizes[most] -= 1
    return sizes


def _by_lot(sizes: list[int], rng: Random) -> list[int]:
    lots = [split for split, size in enumerate(sizes) for _ in range(size)]
    rng.shuffle(lots)
    return lots


def _units(groups: Sequence[int] | NDArray[np.int64] | None, count: int) -> list[list[int]]:
    """Return the images of each group, in order; without groups each image alone."""
    if groups is None:
        return [[image] for image in range(count)]
    members: dict[int, list[int]] = {}
    for image, group in enumerate(np.asarray(groups).tolist()):
        members.setdefault(group, []).append(image)
    return list(members.values())


def _check_groups(groups: int, images: int, sizes: list[int]) -> None:
    splits = sum(size > 0 for size in sizes)
    if groups < splits:
        raise DataError(
            f"the {images:,} images form {groups:,} group{'s' if groups > 1 else ''} that must not be divided "
            f"(dataset.groupBy, or versions of the same picture), too few for {splits} splits: add other images, or "
            "give dataset.train and dataset.val"
        )


def _fill_empty(split_of: list[int], units: list[list[int]], sizes: list[int]) -> None:
    """Give a split without images the smallest group of the split with the most groups."""
    for split, size in enumerate(sizes):
        if size and split not in split_of:
            held = Counter(split_of[unit[0]] for unit in units)
            most = max(held, key=lambda p: (held[p], -p))
            smallest = min((unit for unit in units if split_of[unit[0]] == most), key=len)
            for image in smallest:
                split_of[image] = split


def _stratified(classes: list[tuple[int, ...]], units: list[list[int]], sizes: list[int], rng: Random) -> list[int]:
    """Return the split of each image; ``units`` are lists of images that stay together."""
    order = list(range(len(units)))
    rng.shuffle(order)
    counts = [Counter(label for image in unit for label in classes[image] or (_NOTHING,)) for unit in units]
    units_of: dict[int, list[int]] = {}
    for unit in order:
        for label in counts[unit]:
            units_of.setdefault(label, []).append(unit)
    left = {label: sum(counts[unit][label] for unit in found) for label, found in units_of.items()}
    total = max(1, sum(sizes))
    wanted = {label: [count * size / total for size in sizes] for label, count in left.items()}
    room = list(sizes)
    split_of = [-1] * len(classes)
    while left:
        rarest = min(left, key=lambda label: (label != _NOTHING, left[label], label))
        for unit in sorted(units_of[rarest], key=lambda unit: -len(units[unit])):
            if split_of[units[unit][0]] >= 0:
                continue
            lacks, size = wanted[rarest], len(units[unit])
            fitting = [p for p in range(len(sizes)) if room[p] >= size]
            if fitting:
                split = max(fitting, key=lambda p: (lacks[p], room[p], rng.random()))
            else:
                split = max((p for p in range(len(sizes)) if sizes[p]), key=room.__getitem__)
            for image in units[unit]:
                split_of[image] = split
            room[split] -= size
            for label, count in counts[unit].items():
                wanted[label][split] -= count
                if label in left:
                    left[label] -= count
        del left[rarest]
    return split_of


_NOTHING = -1
"""The class of images without objects."""


def _rare(classes: list[tuple[int, ...]], split_of: list[int], splits: list[int]) -> dict[int, tuple[str, ...]]:
    having: dict[int, set[int]] = {}
    for labels, split in zip(classes, split_of, strict=True):
        for label in labels:
            having.setdefault(label, set()).add(split)
    return {
        label: tuple(SPLIT_NAMES[split] for split in splits if split in having[label])
        for label in sorted(having)
        if len(having[label]) < len(splits)
    }

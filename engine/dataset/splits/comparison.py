"""Compare the splits of a dataset: images in several splits, and classes that a split lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.dataset.checks.problems import ProblemLog
from engine.dataset.coco_scan import Scan
from engine.dataset.images.folder import ImageFolder
from engine.dataset.images.near_duplicates import SIDE
from engine.dataset.split_statistics import SplitCounts
from engine.dataset.splits.group_field import read_field
from engine.dataset.splits.leaks import Grouping, SplitImages, log_leaks, log_repeats
from engine.storage import Storage, is_remote, join
from engine.storage import name as name_of

Picture = tuple[str, NDArray[np.uint8]]
"""Digest of the bytes of an opened image, and its thumbnail (SIDE, SIDE); zeros without one."""


@dataclass
class SplitComparison:
    """Collect the images and classes of each split while they are read.

    Attributes:
        folders: Image folders by URI.
        storage: Access to the images.
        marked: Files on disk may be read for digests of their bytes; otherwise only likely copies are read.
        pictures: By URI, digest and thumbnail of opened images.
        grouping: Rule of the user for images that belong together.
    """

    folders: Mapping[str, ImageFolder]
    storage: Storage
    marked: bool = False
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    grouping: Grouping | None = None
    _images: dict[str, tuple[str, list[str | None], SplitImages]] = field(default_factory=dict)
    _classes: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, name: str, scan: Scan, counted: SplitCounts, class_names: Sequence[str]) -> None:
        """Add the images and classes of one split."""
        folder = scan.split.images
        keys: list[str | None] = list(scan.keys)
        if not any(keys):  # nothing is known of the files: only names can be compared
            keys = [None] * len(scan.header.images)
            names = list(scan.header.images.names)
        else:
            names = [key or "" for key in keys]
        files = [join(folder, shown) if shown else "" for shown in names]
        groups = [] if self.grouping is None else self._groups(self.grouping, scan, names)
        self._images[name] = folder, keys, SplitImages(names, files, groups=groups)
        objects = dict.fromkeys(class_names, 0)
        for class_name, count in zip(class_names, counted.objects_of_class.tolist(), strict=False):
            objects[class_name] += count
        self._classes[name] = {class_name: count for class_name, count in objects.items() if count}

    def report(self, log: ProblemLog) -> None:
        """Log images that several splits share, and classes that a split lacks."""
        splits = self._known()
        if "train" in splits:
            log_leaks(log, splits)
            log_classes(log, self._classes)
        else:
            for images in splits.values():
                log_repeats(log, images)

    def _groups(self, grouping: Grouping, scan: Scan, names: Sequence[str]) -> list[str]:
        fields: Sequence[str] = [""] * len(names)
        if grouping.kind == "Field":
            values = read_field(scan.split.annotations, grouping.value, storage=self.storage)
            if len(values) == len(names):
                fields = [value for _, value in values]
            else:  # images that are left out are not among the names
                known = dict(values)
                fields = [known.get(name, "") for name in names]
        return [grouping.group(name, value) for name, value in zip(names, fields, strict=True)]

    def _known(self) -> dict[str, SplitImages]:
        """Return the splits with digests and thumbnails of their images, as far as known."""
        likely = self._likely()
        known = {}
        for name, (folder, keys, images) in self._images.items():
            marks = [""] * len(keys)
            if self.pictures:
                marks = [self.pictures[file][0] if file in self.pictures else "" for file in images.files]
            elif self.marked or is_remote(folder):
                marks = self.folders[folder].marks(keys)
            elif likely:
                marks = self.folders[folder].marks([key if join(folder, key or "") in likely else None for key in keys])
            known[name] = SplitImages(
                images.names, images.files, [sure(mark) for mark in marks], images.groups, self._thumbnails(images)
            )
        return known

    def _likely(self) -> set[str]:
        """Return files on disk with the same name and size in several splits: only these must be read."""
        if self.marked or self.pictures or len(self._images) < 2:
            return set()
        found: dict[tuple[str, int], set[str]] = {}
        for folder, keys, _ in self._images.values():
            if not is_remote(folder):
                for key in keys:
                    if key is not None:
                        same = name_of(key), self.folders[folder].size(key)
                        found.setdefault(same, set()).add(join(folder, key))
        return {file for files in found.values() if len(files) > 1 for file in files}

    def _thumbnails(self, images: SplitImages) -> NDArray[np.uint8] | None:
        if not self.pictures:
            return None
        blank = np.zeros((SIDE, SIDE), np.uint8)
        shown = [self.pictures[file][1] if file in self.pictures else blank for file in images.files]
        return np.stack(shown) if shown else None


def sure(mark: str) -> str:
    """Return a digest that proves equal bytes; empty for a modification time, an empty file or an unreadable one."""
    return "" if mark.startswith(("modified ", "unreadable ")) or mark.endswith(" 0") else mark


def log_classes(log: ProblemLog, objects: Mapping[str, Mapping[str, int]]) -> None:
    """Log classes that a split lacks, and splits that have no class in common with train.

    Args:
        log: Receives the problems.
        objects: Number of objects by split and class; classes without objects are left out.
    """
    learned = objects["train"]
    for split, classes in objects.items():
        if split == "train" or not classes or not learned:
            continue
        if not classes.keys() & learned.keys():
            log.add(
                "no_common_class", [f"{split}: {', '.join(list(classes)[:3])}; train: {', '.join(list(learned)[:3])}"]
            )
            continue
        for code, missing, counts in (
            ("val_lacks_class", learned.keys() - classes.keys(), learned),
            ("train_lacks_class", classes.keys() - learned.keys(), classes),
        ):
            named = [f"{one} ({split}, {counts[one]:,} objects)" for one in sorted(missing)]
            log.add(code, named, count=len(named))

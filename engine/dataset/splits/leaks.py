"""Find images that several splits of a dataset share: AP on them measures memorisation.

An image is the same as another if it is the same file, has the same bytes, shows the same picture
(:mod:`engine.dataset.images.near_duplicates`), or belongs to the same group of the user's (:class:`Grouping`).
Versions of one picture that Roboflow has made (``name_jpg.rf.HASH.jpg``) are reported in a given split, but prove
nothing: other pictures may have had the same name. Our own split keeps all of these on one side:
:func:`groups_of`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import numpy as np
from numpy.typing import NDArray

from engine.dataset.checks.problems import EXAMPLES, ProblemLog, too_many
from engine.dataset.images.near_duplicates import Thumbnails, connected, same_pictures
from engine.storage import name as name_of

ROBOFLOW = re.compile(
    r"^(.+)[._](?:jpe?g|png|bmp|webp|tiff?|gif|avif|heic)\.rf\.[0-9A-Za-z_-]{8,}\.[a-z]+$", re.IGNORECASE
)

MIN_GROUPS = 3
"""Minimum number of groups, without which a dataset cannot be divided."""


class Kind(StrEnum):
    """Reason why two images count as the same."""

    FILE = "the same file"
    BYTES = "the same bytes"
    GROUP = "the same group"
    PICTURE = "the same picture"
    VERSION = "a version of the same picture, by its name"


@dataclass(frozen=True, eq=False)
class SplitImages:
    """The N images of one split, as far as known.

    Attributes:
        names: Names for messages.
        files: Locations: equal texts are one file.
        marks: Digests of their bytes; empty if unknown.
        groups: Groups by the rule of the user; empty without a group.
        thumbnails: (N, 32, 32), zeros for images that were not opened; None if none was.
    """

    names: Sequence[str]
    files: Sequence[str]
    marks: Sequence[str] = ()
    groups: Sequence[str] = ()
    thumbnails: Thumbnails | None = None

    def keys(self, kind: Kind) -> Sequence[str]:
        """Return one key per image; images with equal keys are the same. Empty if nothing is known."""
        if kind is Kind.VERSION:
            return [source_of(name) for name in self.names]
        return {Kind.FILE: self.files, Kind.BYTES: self.marks, Kind.GROUP: self.groups}.get(kind, ())

    def select(self, names: Sequence[str]) -> SplitImages:
        """Return what is known of some of the images, by their names."""
        index = {name: i for i, name in enumerate(self.names)}
        chosen = [index[name] for name in names]
        files, marks, groups = (
            [column[i] for i in chosen] if column else () for column in (self.files, self.marks, self.groups)
        )
        small = None if self.thumbnails is None else self.thumbnails[chosen]
        return SplitImages(names, files, marks, groups, small)


@dataclass(frozen=True)
class Leak:
    """An image of val or test that is also in a split used for training or for choosing the best epoch."""

    split: str
    name: str
    other_split: str
    other: str
    kind: Kind

    def __str__(self) -> str:
        return f"{self.split}: {self.name} and {self.other_split}: {self.other} ({self.kind.value})"


def source_of(file_name: str) -> str:
    """Return the picture that a file exported by Roboflow was made from; empty for all other files.

    >>> source_of("train/scene00_jpg.rf.c81e728d9d4c2f636f067f89cc14862c.jpg"), source_of("scene00.jpg")
    ('scene00', '')
    """
    if ".rf." not in file_name.lower():
        return ""
    found = ROBOFLOW.match(name_of(file_name.replace("\\", "/")))
    return found[1] if found else ""


def find_leaks(splits: Mapping[str, SplitImages]) -> list[Leak]:
    """Return the images of val that are also in train, and those of test that are also in train or val; each once.

    Args:
        splits: Images by split name: ``train``, ``val`` and optionally ``test``.
    """
    leaks = []
    for split, others in (("val", ("train",)), ("test", ("train", "val"))):
        if split in splits:
            known = {other: splits[other] for other in others if other in splits}
            leaks += leaks_of(split, splits[split], known)
    return leaks


def leaks_of(split: str, images: SplitImages, others: Mapping[str, SplitImages]) -> list[Leak]:
    """Return the images of a split that are also in others; each once."""
    found: dict[int, Leak] = {}
    for kind in (Kind.FILE, Kind.BYTES, Kind.GROUP):
        _by_key(found, kind, split, images, others)
    _by_picture(found, split, images, others)
    _by_key(found, Kind.VERSION, split, images, others)
    return [found[index] for index in sorted(found)]


def _by_key(
    found: dict[int, Leak], kind: Kind, split: str, images: SplitImages, others: Mapping[str, SplitImages]
) -> None:
    keys = images.keys(kind)
    for other, theirs in others.items():
        where = {key: i for i, key in reversed(list(enumerate(theirs.keys(kind)))) if key}
        for index, key in enumerate(keys if where else ()):
            if key in where and index not in found:
                found[index] = Leak(split, images.names[index], other, theirs.names[where[key]], kind)


def _by_picture(found: dict[int, Leak], split: str, images: SplitImages, others: Mapping[str, SplitImages]) -> None:
    for other, theirs in others.items():
        if images.thumbnails is None or theirs.thumbnails is None:
            continue
        mine = np.array([i for i in range(len(images.names)) if i not in found], np.int64)
        sides = np.repeat([0, 1], [len(mine), len(theirs.names)])
        both = np.concatenate([images.thumbnails[mine], theirs.thumbnails])
        for own, there in same_pictures(both, sides):
            index = int(mine[own])
            if index not in found:
                found[index] = Leak(split, images.names[index], other, theirs.names[there - len(mine)], Kind.PICTURE)


def log_leaks(log: ProblemLog, splits: Mapping[str, SplitImages]) -> None:
    """Log the result of :func:`find_leaks`: proved leaks by split, and versions by name."""
    leaks = find_leaks(splits)
    for split in ("val", "test"):
        proved = [leak for leak in leaks if leak.split == split and leak.kind is not Kind.VERSION]
        log.add(f"{split}_leaked", proved[:EXAMPLES], count=len(proved))
    versions = [leak for leak in leaks if leak.kind is Kind.VERSION]
    log.add("version_leaked", versions[:EXAMPLES], count=len(versions))


def log_repeats(log: ProblemLog, images: SplitImages) -> None:
    """Log images of one split that are the same by bytes, picture or name; entries of one file are logged elsewhere."""
    first: dict[str, int] = {}
    known = set()
    for index, (mark, file) in enumerate(zip(images.marks, images.files, strict=False)):
        if mark and (before := first.setdefault(mark, index)) != index and images.files[before] != file:
            log.add("same_bytes", [f"{images.names[before]} and {images.names[index]}"])
            known.add(index)
    alike = []
    if images.thumbnails is not None:
        alike = [(i, j) for i, j in same_pictures(images.thumbnails) if images.files[i] != images.files[j]]
        alike = [(i, j) for i, j in alike if j not in known and i not in known]
        repeated = {j: i for i, j in reversed(alike)}
        log.add(
            "same_picture",
            [f"{images.names[i]} and {images.names[j]}" for j, i in repeated.items()],
            count=len(repeated),
        )
    sources = [source for source in images.keys(Kind.VERSION) if source]
    log.add("versions", [*dict.fromkeys(sources)], count=len(sources) - len(set(sources)))


def groups_of(images: SplitImages, *, most: int) -> NDArray[np.int64]:
    """Return for each image the position of the first image that a split must keep it with.

    Args:
        images: All images of a dataset.
        most: Maximum size of a group of near-duplicates that is kept together: all frames of a fixed camera may be
            near-duplicates, and could not be divided otherwise.
    """
    count = len(images.names)
    pairs: list[tuple[int, int]] = []
    for kind in (Kind.FILE, Kind.BYTES, Kind.GROUP, Kind.VERSION):
        first: dict[str, int] = {}
        for index, key in enumerate(images.keys(kind)):
            if key and (before := first.setdefault(key, index)) != index:
                pairs.append((before, index))
    proved = connected(count, pairs)
    if images.thumbnails is None:
        return proved
    alike = list(same_pictures(images.thumbnails))
    copies = connected(count, alike)
    sizes = np.bincount(copies, minlength=count)
    whole = connected(count, pairs + [(i, j) for i, j in alike if sizes[copies[i]] <= most])
    return whole if len(np.unique(whole)) >= MIN_GROUPS else proved


@dataclass(frozen=True)
class Grouping:
    """Rule by which a user keeps images together: ``Folder``, ``Prefix:SEPARATOR`` or ``Field:NAME``.

    Attributes:
        kind: ``Folder``: images of one folder. ``Prefix``: images whose names are the same before the last separator.
            ``Field``: images with the same value of a field of their record in the annotations.
        value: The separator, or the name of the field.
    """

    kind: str
    value: str = ""

    @classmethod
    def of(cls, text: str) -> Self:
        """Read ``Folder``, ``Prefix:_`` or ``Field:video_id``."""
        kind, _, value = text.partition(":")
        return cls(kind, value)

    @classmethod
    def optional(cls, text: str | None) -> Self | None:
        """Read an optional rule; None without one."""
        return None if text is None else cls.of(text)

    def group(self, file_name: str, field: str = "") -> str:
        """Return the group of an image; empty if it has none and is divided on its own.

        >>> Grouping.of("Prefix:_").group("day/cam1_004.jpg"), Grouping.of("Folder").group("day/cam1_004.jpg")
        ('day/cam1', 'day')
        """
        path = file_name.replace("\\", "/")
        if self.kind == "Field":
            return field
        if self.kind == "Folder":
            return path.rpartition("/")[0]
        folder, slash, last = path.rpartition("/")
        before, separator, _ = last.rpartition(self.value)
        return folder + slash + before if separator else ""


def refuse_leaks(leaks: Sequence[Leak], images: Mapping[str, int], *, max_percent: int) -> Iterator[str]:
    """Yield a message for each split that shares too many images with others.

    Args:
        leaks: Result of :func:`find_leaks`.
        images: Number of images by split.
        max_percent: Maximum percentage of the images of a split that may be shared.
    """
    for split in ("val", "test"):
        proved = [leak for leak in leaks if leak.split == split and leak.kind is not Kind.VERSION]
        if too_many(len(proved), images.get(split, 0), max_percent):
            yield leaked_sentence(split, len(proved), images[split], max_percent, [*map(str, proved[:2])])


def leaked_sentence(split: str, leaked: int, images: int, max_percent: int, examples: Sequence[str]) -> str:
    """Return the message about a split that shares too many images with others."""
    others = "train" if split == "val" else "train or val"
    return (
        f"{leaked:,} of {images:,} images of {split} are in {others} too, more than the {max_percent} % of "
        f"dataset.maxLeakedPercent, so its AP would be measured on training images: {'; '.join(examples)}. "
        f"Remove them from one of the splits"
    )

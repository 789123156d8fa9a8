"""One part of a dataset as files, and what tools call the parts."""

from __future__ import annotations

import re
from dataclasses import dataclass

from engine.storage import name

PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "dev"), "test": ("test", "testing")}
"""What tools call the parts."""

_IMAGE_SUFFIXES = frozenset(
    {"jpg", "jpeg", "jpe", "png", "bmp", "gif", "tif", "tiff", "webp", "jp2", "ppm", "pgm", "pbm", "avif"}
)


@dataclass(frozen=True)
class PartFiles:
    """One part of a dataset: its annotation file and the folder of its images, as URIs."""

    annotations: str
    images: str
    images_expected: bool = False
    """The images must be there: each that is not is left out. Otherwise only if at least one is there."""
    origin: str = ""
    """Where ``annotations`` is a converted copy: the file or folder that it was made of, and its format."""

    unread: tuple[str, ...] = ()
    """Other annotation files of the folder, by key, that were not chosen."""

    @property
    def shown(self) -> str:
        """The annotations as the user knows them."""
        return self.origin or self.annotations


def part_of(key: str) -> str:
    """``train`` of ``train/_annotations.coco.json`` and of ``annotations/instances_train2017.json``; else ``all``."""
    for word in (stem(key), *reversed(key.split("/")[:-1])):
        tokens = {token.rstrip("0123456789") for token in re.split(r"[^a-z0-9]+", word.lower())}
        for part, names in PARTS.items():
            if not tokens.isdisjoint(names):
                return part
    return "all"


def stem(key: str) -> str:
    """The last part of a key without its suffix."""
    return name(key).rpartition(".")[0]


def is_image(key: str) -> bool:
    """Test whether a name is that of an image file."""
    before, _, suffix = key.rpartition(".")
    return before != "" and suffix.lower() in _IMAGE_SUFFIXES

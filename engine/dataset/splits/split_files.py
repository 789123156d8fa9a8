"""Files of one split of a dataset, and the names that tools give to splits."""

from __future__ import annotations

import re
from dataclasses import dataclass

from engine.storage import name

SPLIT_ALIASES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""Names that tools give to the splits."""

_IMAGE_SUFFIXES = frozenset(
    {"jpg", "jpeg", "jpe", "png", "bmp", "gif", "tif", "tiff", "webp", "jp2", "ppm", "pgm", "pbm", "avif"}
)


@dataclass(frozen=True)
class SplitFiles:
    """One split of a dataset: its annotation file and the folder of its images, as URIs."""

    annotations: str
    images: str
    images_expected: bool = False
    """Missing images are left out in any case; otherwise only if at least one image exists."""
    origin: str = ""
    """Source file or folder and format, if ``annotations`` is a converted copy; else empty."""

    unread: tuple[str, ...] = ()
    """Other annotation files of the folder, by key, that were not chosen."""

    @property
    def shown(self) -> str:
        """Location of the annotations as the user gave it."""
        return self.origin or self.annotations


def split_of_path(key: str) -> str:
    """Return the split that a path names; ``all`` if none.

    >>> [split_of_path(key) for key in ("train/_annotations.coco.json", "instances_val2017.json", "a.json")]
    ['train', 'val', 'all']
    """
    for word in (stem(key), *reversed(key.split("/")[:-1])):
        tokens = {token.rstrip("0123456789") for token in re.split(r"[^a-z0-9]+", word.lower())}
        for split, names in SPLIT_ALIASES.items():
            if not tokens.isdisjoint(names):
                return split
    return "all"


def stem(key: str) -> str:
    """Return the file name of a key without its suffix."""
    return name(key).rpartition(".")[0]


def is_image(key: str) -> bool:
    """Test whether a name is that of an image file."""
    before, _, suffix = key.rpartition(".")
    return before != "" and suffix.lower() in _IMAGE_SUFFIXES

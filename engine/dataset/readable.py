"""Which images of a part can be decoded: looked at once, before training, since a night's run must not end at one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from engine.dataset.problems import EXAMPLES, too_many
from engine.dataset.samples import load_sample
from engine.dataset.types import CocoDataset
from engine.errors import DataError
from engine.storage import Storage

THREADS = 8
"""Images that are decoded at a time: what bounds the memory."""

NO_OBJECTS = np.empty(0, np.int64)


@dataclass(frozen=True)
class Unreadable:
    """Images that cannot be used, by what is wrong with each."""

    faults: dict[str, str]

    @property
    def examples(self) -> tuple[str, ...]:
        """The first few."""
        return tuple(islice(self.faults.values(), EXAMPLES))

    @property
    def digest(self) -> str:
        """sha256 of their names in hex; empty if there are none."""
        names = json.dumps(sorted(self.faults))
        return hashlib.sha256(names.encode()).hexdigest() if self.faults else ""


def find_unreadable(dataset: CocoDataset, paths: Sequence[Path], *, masks: bool, cache: Path) -> Unreadable:
    """The images that cannot be decoded, or are of another size than the annotations are for.

    Args:
        dataset: What is to be trained on, or measured by.
        paths: Of its images.
        masks: Whether masks will be decoded. Where the file gave no size, only the image tells whether they fit.
        cache: The verdict on files that are the same as before is kept there.
    """
    kept = cache / "readable" / f"{_key(dataset, paths, masks=masks)}.json"
    storage = Storage()
    if storage.exists(str(kept)):
        return Unreadable(json.loads(storage.read_bytes(str(kept))))
    look = partial(_fault, dataset, masks)
    faults: dict[str, str] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for image, fault in zip(dataset.images, pool.map(look, range(len(paths)), paths), strict=True):
            if fault:
                faults[image.file_name] = fault
    storage.write_bytes(str(kept), json.dumps(faults).encode())
    return Unreadable(faults)


def check_few(unreadable: Unreadable, images: int, *, max_percent: int) -> None:
    """See that no more images are unreadable than may be left out.

    Raises:
        DataError: There are more.
    """
    count = len(unreadable.faults)
    if too_many(count, images, max_percent):
        raise DataError(
            f"{count:,} of {images:,} images cannot be used, more than the {max_percent} % that may be left out "
            f"(dataset.onProblem, dataset.maxSkippedPercent): {'; '.join(unreadable.examples)}"
        )


def _fault(dataset: CocoDataset, masks: bool, index: int, path: Path) -> str:
    unsure = masks and not dataset.images[index].width
    try:
        load_sample(dataset, index, path, with_masks=unsure, select=None if unsure else NO_OBJECTS)
    except DataError as error:
        return str(error)
    return ""


def _key(dataset: CocoDataset, paths: Sequence[Path], *, masks: bool) -> str:
    """Changes with any file, and with what is said of it."""
    unsure = masks and not all(image.width for image in dataset.images)
    digest = hashlib.sha256(dataset.digest.encode() if unsure else b"")
    for image, path in zip(dataset.images, paths, strict=True):
        status = path.stat() if path.is_file() else None
        seen = (status.st_size, status.st_mtime_ns) if status is not None else ()
        digest.update(f"{image.file_name}\0{image.width} {image.height}\0{path}\0{seen}\n".encode(errors="replace"))
    return digest.hexdigest()[:32]

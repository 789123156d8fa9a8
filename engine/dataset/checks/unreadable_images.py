"""Find the images of a split that cannot be decoded: once, before training, so that none of them ends a long run.

Images from object storage are decoded while others are still being downloaded.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from operator import itemgetter
from pathlib import Path

import numpy as np

from engine.dataset.checks.problems import EXAMPLES, too_many
from engine.dataset.images.decoding import probe_image
from engine.dataset.images.exif_orientation import Evidence, Frames, evidence_of
from engine.dataset.images.folder import ImageFolder
from engine.dataset.sample_loader import load_sample
from engine.dataset.types import CocoDataset
from engine.errors import DataError
from engine.storage import Storage
from engine.storage.transfer import each_done

THREADS = 8
"""Images decoded at a time: bounds the memory."""

FORMAT = "2"
"""Format version of a cached result: earlier ones contain nothing about EXIF."""

NO_OBJECTS = np.empty(0, np.int64)


@dataclass(frozen=True)
class Unreadable:
    """Unusable images and objects of a split.

    Attributes:
        faults: By file name, the problem of an unusable image.
        outside: By file name, positions of the objects that lie outside an image whose size the file does not give.
        frames: Evidence for the orientation in which the images were annotated.
        pages: Images with several pages or frames, of which the first is used.
    """

    faults: dict[str, str] = field(default_factory=dict)
    outside: dict[str, tuple[int, ...]] = field(default_factory=dict)
    frames: Frames = field(default_factory=Frames)
    pages: int = 0

    @property
    def examples(self) -> tuple[str, ...]:
        """The first few."""
        return tuple(islice(self.faults.values(), EXAMPLES))

    @property
    def digest(self) -> str:
        """sha256 of their names in hex; empty if there are none."""
        names = json.dumps(sorted(self.faults))
        return hashlib.sha256(names.encode()).hexdigest() if self.faults else ""


def find_unreadable(
    dataset: CocoDataset,
    folder: ImageFolder,
    paths: Sequence[Path],
    *,
    masks: bool,
    cache: Path,
    check: Callable[[], None] = lambda: None,
) -> Unreadable:
    """Download images and find those that cannot be decoded or whose size differs from the annotations, and objects
    outside their image.

    Args:
        dataset: Images and annotations of the split.
        folder: Folder of its images.
        paths: Local paths of the images after the download.
        masks: Masks will be decoded. If the file gives no size, only the image shows if they fit.
        cache: Folder that keeps the result for unchanged files.
        check: Called before each image is decoded, in several threads; an exception ends the search.

    Raises:
        StorageError: Storage refused, or was unavailable after all retries.
    """
    storage = Storage()

    def kept() -> str:
        return str(cache / "readable" / f"{_key(dataset, paths, masks=masks)}.json")

    before = _load(Path(kept()))
    if before is not None:
        return before

    def open_one(index: int) -> tuple[int, _Seen]:
        check()
        return index, _look(dataset, masks, index, paths[index])

    with (
        closing(folder.bring(dataset.images)) as brought,
        closing(each_done(open_one, brought, threads=THREADS)) as looked,
    ):
        seen = dict(sorted(((index, one) for index, one in looked if one != _Seen()), key=itemgetter(0)))
    found, names = Unreadable(pages=sum(one.pages > 1 for one in seen.values())), names_of(dataset) if seen else []
    for index, one in seen.items():
        if one.fault:
            found.faults[names[index]] = one.fault
        elif one.outside:
            found.outside[names[index]] = one.outside
        found.frames.add(one.evidence, names[index])
    body = json.dumps(asdict(found)).encode()
    storage.write_bytes(kept(), hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    return found


def _load(file: Path) -> Unreadable | None:
    """Return the cached result; None if it is missing, incomplete or damaged."""
    if not file.is_file():
        return None
    try:
        seal, _, body = file.read_bytes().partition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != seal:
            raise ValueError("its sha256 differs")
        kept = json.loads(body)
        outside = {name: tuple(at) for name, at in kept["outside"].items()}
        return Unreadable(kept["faults"], outside, Frames(**kept["frames"]), kept["pages"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        logging.getLogger(__name__).warning("%s is damaged (%s): the images are checked again", file, error)
        return None


def names_of(dataset: CocoDataset) -> list[str]:
    """Return the names of images in an :class:`Unreadable`: a repeated entry gets a name of its own."""
    seen: Counter[str] = Counter()
    names = []
    for image in dataset.images:
        seen[image.file_name] += 1
        again = seen[image.file_name]
        names.append(image.file_name if again == 1 else f"{image.file_name} ({again})")
    return names


def check_few(unreadable: Unreadable, images: int, *, max_percent: int, earlier: int = 0) -> None:
    """Check that not too many images are left out.

    Args:
        unreadable: Unusable images of the split.
        images: Number of images of the split.
        max_percent: Maximum percentage that may be left out.
        earlier: Number of other images that inspection has left out.

    Raises:
        DataError: More are left out.
    """
    count = len(unreadable.faults) + earlier
    if unreadable.faults and too_many(count, images + earlier, max_percent):
        raise DataError(
            f"{count:,} of {images + earlier:,} images cannot be used, more than the {max_percent} % that may be left "
            f"out (dataset.onProblem, dataset.maxSkippedPercent): {'; '.join(unreadable.examples)}"
        )


@dataclass(frozen=True)
class _Seen:
    """Decode an image: its problem, or the positions of objects outside; its orientation; its number of pages."""

    fault: str = ""
    outside: tuple[int, ...] = ()
    evidence: Evidence = Evidence.NONE
    pages: int = 1


def _look(dataset: CocoDataset, masks: bool, index: int, path: Path) -> _Seen:
    image = dataset.images[index]
    unsure = not image.width
    try:
        header = probe_image(path, name=image.file_name)
        sample = load_sample(dataset, index, path, with_masks=unsure and masks, select=None if unsure else NO_OBJECTS)
    except DataError as error:
        return _Seen(fault=str(error))
    seen = _Seen(evidence=evidence_of(image, header), pages=header.pages)
    if not unsure:
        return seen
    inside = set(sample.annotation_indices.tolist())
    return replace(seen, outside=tuple(i for i in range(len(dataset.annotations[index])) if i not in inside))


def _key(dataset: CocoDataset, paths: Sequence[Path], *, masks: bool) -> str:
    """Return a digest that changes with any file and with its annotations."""
    unsure = not all(image.width for image in dataset.images)
    said = json.dumps([dataset.digest, dataset.classes, masks, dataset.frame]) if unsure else FORMAT
    digest = hashlib.sha256(said.encode())
    for image, path in zip(dataset.images, paths, strict=True):
        status = path.stat() if path.is_file() else None
        seen = (status.st_size, status.st_mtime_ns, status.st_ctime_ns) if status is not None else ()
        digest.update(f"{image.file_name}\0{image.width} {image.height}\0{path}\0{seen}\n".encode(errors="replace"))
    return digest.hexdigest()[:32]

"""Convert a dataset of any supported format to COCO: :func:`convert_dataset`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

import numpy as np

from engine.dataset.checks.problems import ProblemLog
from engine.dataset.checks.validate_annotations import ValidatedAnnotations
from engine.dataset.coco_header import Header
from engine.dataset.coco_records import RawAnnotation
from engine.dataset.coco_scan import OnBlock, Scan
from engine.dataset.file_listing import list_names
from engine.dataset.segmentations import MaskKind
from engine.dataset.splits.split_files import SplitFiles
from engine.storage import Storage
from engine.storage.files import failures

_WITH_MASK = (MaskKind.POLYGONS, MaskKind.RECTANGLE, MaskKind.RUN_LENGTHS)


@dataclass(frozen=True)
class ConvertedFile:
    """A COCO file written by the conversion.

    Attributes:
        path: Path of the file.
        images_folder: URI of the folder that its file names are relative to.
    """

    path: Path
    images_folder: str
    images: int
    annotations: int


def convert_dataset(splits: Mapping[str, SplitFiles], folder: Path, *, storage: Storage) -> dict[str, ConvertedFile]:
    """Write ``<split>.json`` for each split: its usable images and objects, as inspection counts them.

    Memory grows with the number of images, not with the objects.

    Args:
        splits: Files by split name, from :func:`engine.dataset.find_splits`.
        folder: An existing folder on this machine.
        storage: Access to the dataset.

    Raises:
        DataError: It contains no dataset.
        StorageError: Something cannot be read or written.
    """
    return {name: _convert(split, folder / f"{name}.json", storage) for name, split in splits.items()}


def _convert(split: SplitFiles, path: Path, storage: Storage) -> ConvertedFile:
    names = list_names(split.images, storage)
    scan = Scan(split, names=names, storage=storage, log=ProblemLog())
    with _writing(path) as (file, spool):
        objects = _Objects(spool)

        def start() -> OnBlock:
            objects.restart()
            return objects.add

        header = scan.run(start)
        class_names = header.class_names(ProblemLog())
        categories = [{"id": one, "name": name} for one, name in zip(header.class_ids, class_names, strict=True)]
        file.write(b'{"categories": ' + json.dumps(categories).encode() + b',\n"images": [')
        for position, image in enumerate(header.images):
            found = names.find(image.file_name)
            record = {
                "id": image.id,
                "file_name": image.file_name if found is None else found,
                "width": image.width,
                "height": image.height,
            }
            if not image.width:
                del record["width"], record["height"]
            file.write((b",\n" if position else b"\n") + json.dumps(record).encode())
        file.write(b'\n],\n"annotations": [')
        spool.seek(0)
        shutil.copyfileobj(spool, file, 1 << 20)
        file.write(b"\n]}\n")
    return ConvertedFile(path, split.images, len(header.images), objects.count)


@contextmanager
def _writing(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    with failures(str(path), "written"):
        file = path.open("wb")
        spool = TemporaryFile(dir=path.parent)  # noqa: SIM115 - closed below
    with file, spool:
        yield file, spool


class _Objects:
    """Write the usable objects of a pass over a file."""

    def __init__(self, spool: BinaryIO) -> None:
        self.spool, self.count = spool, 0

    def restart(self) -> None:
        """Discard the objects of an earlier pass."""
        self.spool.seek(0)
        self.spool.truncate()
        self.count = 0

    def add(self, block: list[RawAnnotation], validated: ValidatedAnnotations, header: Header) -> None:
        """Write the usable objects of a block; ids are counted from 1."""
        for i in np.flatnonzero(validated.usable):
            left, top, right, bottom = (float(value) for value in validated.boxes_xyxy[i])
            has_mask = MaskKind(validated.masks[i]) in _WITH_MASK
            self.count += 1
            record = {
                "id": self.count,
                "image_id": block[i].image_id,
                "category_id": block[i].category_id,
                "bbox": [round(value, 4) for value in (left, top, right - left, bottom - top)],
                "area": round(float(validated.areas[i]), 4),
                "iscrowd": int(validated.crowds[i]),
            }
            text = json.dumps(record).encode()[:-1]
            mask = bytes(block[i].segmentation) if has_mask else b"[]"
            self.spool.write((b",\n" if self.count > 1 else b"\n") + text + b', "segmentation": ' + mask + b"}")

"""Load the usable images and objects of a COCO file into memory, by the same rules as inspection."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engine.dataset.checks.problems import ProblemLog
from engine.dataset.checks.validate_annotations import ValidatedAnnotations
from engine.dataset.coco_header import Header
from engine.dataset.coco_records import RawAnnotation
from engine.dataset.coco_scan import OnBlock, Scan
from engine.dataset.dataset_statistics import class_order, only_boxes
from engine.dataset.export_layouts import find_single_split
from engine.dataset.file_listing import list_names
from engine.dataset.id_index import as_numbers
from engine.dataset.images.folder import ImageFolder
from engine.dataset.segmentations import MaskKind, parse
from engine.dataset.splits.split_files import SplitFiles
from engine.dataset.types import CocoAnnotation, CocoDataset, ImageId, Severity
from engine.errors import DataError
from engine.spec import Crowds
from engine.storage import Storage

WITH_MASK = (MaskKind.POLYGONS, MaskKind.RECTANGLE, MaskKind.RUN_LENGTHS)


def load_dataset(
    annotations: str | Path,
    images: str | Path | None = None,
    *,
    storage: Storage | None = None,
    crowds: Crowds = Crowds.IGNORE,
    copies: bool = False,
) -> CocoDataset:
    """Load the usable images and objects of a COCO file.

    Objects are left out, repaired or clipped as inspection reports: as many objects as ``DatasetInfo.annotations``.

    Args:
        annotations: COCO instances JSON, or the folder of an export of one split; s3:// or path.
        images: Folder of the images; default: searched next to the annotations.
        storage: Access to object storage; default: from the environment.
        crowds: Treat annotations with ``iscrowd: 1`` as ignore regions or as objects.
        copies: Keep duplicate objects, as in predictions.

    Raises:
        DataError: It contains no COCO dataset, several splits, or boxes or classes that are all wrong.
        StorageError: It cannot be read.
    """
    store = storage or Storage()
    split = find_single_split(str(annotations), None if images is None else str(images), storage=store)
    return load_split(split, storage=store, crowds=crowds, copies=copies)


def load_split(
    split: SplitFiles,
    *,
    storage: Storage,
    folder: ImageFolder | None = None,
    crowds: Crowds = Crowds.IGNORE,
    copies: bool = False,
) -> CocoDataset:
    """Load the usable images and objects of one file.

    Args:
        split: The file, and the folder of its images.
        storage: Access to both.
        folder: Image folder, for a dataset that knows the fingerprint of its images.
        crowds: Treat annotations with ``iscrowd: 1`` as ignore regions or as objects.
        copies: Keep duplicate objects.

    Raises:
        DataError: It is not a COCO dataset, or its boxes or classes are all wrong.
        StorageError: It cannot be read.
    """
    names = list_names(split.images, storage) if folder is None else folder.names
    scan = Scan(split, names=names, storage=storage, log=ProblemLog(), crowds=crowds, copies=copies)
    passes: list[_Objects] = []

    def start() -> OnBlock:
        passes.append(_Objects())
        return passes[-1].add

    header = scan.run(start)
    wrong = [p for p in scan.log.problems() if p.severity is Severity.ERROR]
    if wrong:
        raise DataError(f"{split.annotations}: " + " ".join(f"{p.message} {p.advice}" for p in wrong))
    images_digest = "" if folder is None else folder.fingerprint(scan.keys)
    return replace(passes[-1].dataset(header), digest=scan.digest, images_digest=images_digest)


class _Object(NamedTuple):
    """Values of an annotation before all classes of the file and their order are known."""

    id: ImageId
    class_index: int
    box_xyxy: tuple[float, float, float, float]
    area: float
    iscrowd: bool
    segmentation: Any
    is_rectangle: bool


class _Objects:
    """Collect the usable objects of a pass over the file."""

    def __init__(self) -> None:
        self.by_image: dict[int, list[_Object]] = {}
        self.rectangles = self.outlines = self.contradictory = 0

    def add(self, block: list[RawAnnotation], validated: ValidatedAnnotations, header: Header) -> None:
        self.contradictory += int(validated.contradictory.sum())
        for i in np.flatnonzero(validated.usable):
            annotation, kind = block[i], MaskKind(validated.masks[i])
            target = not validated.crowds[i]
            self.rectangles += target and kind is MaskKind.RECTANGLE
            self.outlines += target and kind in (MaskKind.POLYGONS, MaskKind.RUN_LENGTHS)
            left, top, right, bottom = validated.boxes_xyxy[i].tolist()
            found = _Object(
                annotation.id if annotation.id is not None else -1,
                int(validated.classes[i]),
                (left, top, right, bottom),
                float(validated.areas[i]),
                not target,
                parse(annotation.segmentation) if kind in WITH_MASK else None,
                kind is MaskKind.RECTANGLE,
            )
            self.by_image.setdefault(int(validated.images[i]), []).append(found)

    def dataset(self, header: Header) -> CocoDataset:
        """Return the dataset, with classes in the order of their ids and equal names merged."""
        rectangles = only_boxes(self.rectangles, self.outlines)
        names = header.class_names(ProblemLog())
        order = sorted(range(len(names)), key=lambda i: class_order(header.class_ids[i]))
        positions = {name: n for n, name in enumerate(dict.fromkeys(names[i] for i in order))}
        classes, new_index = list(positions), [positions[name] for name in names]
        ids = {name: header.class_ids[i] for i, name in reversed([(i, names[i]) for i in order])}

        def final(found: _Object) -> CocoAnnotation:
            return CocoAnnotation(
                id=found.id,
                class_index=new_index[found.class_index],
                box_xyxy=found.box_xyxy,
                area=found.area,
                iscrowd=found.iscrowd,
                segmentation=None if rectangles and found.is_rectangle else found.segmentation,
            )

        return CocoDataset(
            images=tuple(header.images),
            annotations=tuple(
                tuple(final(found) for found in self.by_image.get(i, ())) for i in range(len(header.images))
            ),
            classes=tuple(classes),
            category_ids=tuple(as_numbers([ids[name] for name in classes])),
            contradictory=self.contradictory,
        )

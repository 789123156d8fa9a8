"""A dataset in memory: the usable part of a COCO file, by the same rules as inspection."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engine.dataset.checks.problems import ProblemLog
from engine.dataset.checks.validate_annotations import Judged
from engine.dataset.coco_records import RawAnnotation
from engine.dataset.dataset_statistics import class_order, only_boxes
from engine.dataset.export_layouts import find_single_part
from engine.dataset.file_listing import list_names
from engine.dataset.id_index import as_numbers
from engine.dataset.images.folder import ImageFolder
from engine.dataset.scan import Header, OnBlock, Scan
from engine.dataset.segmentations import MaskKind, parse
from engine.dataset.splits.paths import PartFiles
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
    """The usable images and objects of a COCO file.

    What inspection says is left out, repaired or clipped is so here: as many objects as ``DatasetInfo.annotations``.

    Args:
        annotations: COCO instances JSON, or the folder of an export of one part; s3:// or path.
        images: Folder of the images; default: looked for beside the annotations.
        storage: How s3:// is reached; default: as the environment says.
        crowds: Whether annotations with ``iscrowd: 1`` are ignore regions or objects.
        copies: Keep objects that are there twice, as of predictions.

    Raises:
        DataError: There is not a COCO dataset in it, one of several parts, or one whose boxes or classes are wrong
            throughout.
        StorageError: It cannot be had.
    """
    store = storage or Storage()
    part = find_single_part(str(annotations), None if images is None else str(images), storage=store)
    return load_part(part, storage=store, crowds=crowds, copies=copies)


def load_part(
    part: PartFiles,
    *,
    storage: Storage,
    folder: ImageFolder | None = None,
    crowds: Crowds = Crowds.IGNORE,
    copies: bool = False,
) -> CocoDataset:
    """The usable images and objects of one file.

    Args:
        part: The file, and where its images lie.
        storage: How they are reached.
        folder: Of its images, for a dataset that knows their fingerprint.
        crowds: Whether annotations with ``iscrowd: 1`` are ignore regions or objects.
        copies: Keep objects that are there twice.

    Raises:
        DataError: It is not a COCO dataset, or its boxes or classes are wrong throughout.
        StorageError: It cannot be had.
    """
    names = list_names(part.images, storage) if folder is None else folder.names
    scan = Scan(part, names=names, storage=storage, log=ProblemLog(), crowds=crowds, copies=copies)
    passes: list[_Objects] = []

    def start() -> OnBlock:
        passes.append(_Objects())
        return passes[-1].add

    header = scan.run(start)
    wrong = [p for p in scan.log.problems() if p.severity is Severity.ERROR]
    if wrong:
        raise DataError(f"{part.annotations}: " + " ".join(f"{p.message} {p.advice}" for p in wrong))
    images_digest = "" if folder is None else folder.fingerprint(scan.keys)
    return replace(passes[-1].dataset(header), digest=scan.digest, images_digest=images_digest)


class _Object(NamedTuple):
    """Values of an annotation before the classes of the whole file, and their order, are known."""

    id: ImageId
    class_index: int
    box_xyxy: tuple[float, float, float, float]
    area: float
    iscrowd: bool
    segmentation: Any
    is_rectangle: bool


class _Objects:
    """Collects the usable objects of a pass."""

    def __init__(self) -> None:
        self.by_image: dict[int, list[_Object]] = {}
        self.rectangles = self.outlines = self.contradictory = 0

    def add(self, block: list[RawAnnotation], judged: Judged, header: Header) -> None:
        self.contradictory += int(judged.contradictory.sum())
        for i in np.flatnonzero(judged.usable):
            annotation, kind = block[i], MaskKind(judged.masks[i])
            target = not judged.crowds[i]
            self.rectangles += target and kind is MaskKind.RECTANGLE
            self.outlines += target and kind in (MaskKind.POLYGONS, MaskKind.RUN_LENGTHS)
            left, top, right, bottom = judged.boxes_xyxy[i].tolist()
            found = _Object(
                annotation.id if annotation.id is not None else -1,
                int(judged.classes[i]),
                (left, top, right, bottom),
                float(judged.areas[i]),
                not target,
                parse(annotation.segmentation) if kind in WITH_MASK else None,
                kind is MaskKind.RECTANGLE,
            )
            self.by_image.setdefault(int(judged.images[i]), []).append(found)

    def dataset(self, header: Header) -> CocoDataset:
        """The dataset, its classes in the order of their ids, those of one name made one."""
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

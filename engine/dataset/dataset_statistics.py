"""Combine the counts of all splits of a dataset into its DatasetInfo."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.dataset.checks.ap_ceiling import Ceilings
from engine.dataset.checks.problems import ProblemLog
from engine.dataset.coco_header import Header
from engine.dataset.id_index import as_numbers
from engine.dataset.segmentations import MaskKind
from engine.dataset.split_statistics import RATIOS, SIDES, Ints, SplitCounts, plus, zeros
from engine.dataset.types import ClassInfo, DatasetInfo, ImageId, ImagesInfo, SizeInfo

MASK_SHARE = 0.05
"""Minimum fraction of objects with masks for a dataset that counts as having masks."""

RECTANGLE_SHARE = 0.95
ENOUGH_RECTANGLES = 50
"""Minimum fraction and number of polygons equal to their box that count as an artefact of the export: a few may be
rectangular objects."""

RARE_OBJECTS, FEW_IMAGES, IMBALANCE = 10, 10, 100
"""Limits below, below and above which a problem is reported: objects of a class; images with objects; objects of the
most frequent class as a multiple of the rarest."""

MOST_LABELS = 300
"""Default maximum number of detections per image in labels and predictions."""


@dataclass
class Counts:
    """Counts of all splits of a dataset; classes by name."""

    splits: list[SplitCounts] = field(default_factory=list)
    classes: dict[str, ClassInfo] = field(default_factory=dict)
    class_ids: dict[str, ImageId] = field(default_factory=dict)
    ceilings: Ceilings = field(default_factory=Ceilings)
    image_sizes: list[NDArray[np.float64]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    images: int = 0
    images_read: int = 0

    def add_split(self, split: SplitCounts, header: Header, class_names: list[str], *, images_read: int) -> None:
        """Add the counts of one file."""
        self.splits.append(split)
        split.images, split.images_read = len(header.images), images_read
        self.images_read += images_read
        self.images += len(header.images)
        self.image_sizes.append(header.images.sizes)
        images_of_class = np.bincount(split.image_class_pairs.counts()[0] & 0xFFFFFF, minlength=len(class_names))
        objects = plus(split.objects_of_class, zeros(len(class_names)))
        seen: set[str] = set()
        for index in sorted(range(len(class_names)), key=lambda i: class_order(header.class_ids[i])):
            name, class_id = class_names[index], header.class_ids[index]
            before = self.classes.get(name)
            self.class_ids.setdefault(name, class_id)
            if name in seen:
                split.log.add("duplicate_class_name", [name])
            seen.add(name)
            self.classes[name] = ClassInfo(
                id=0,
                name=name,
                annotations=int(objects[index]) + (before.annotations if before else 0),
                images=int(images_of_class[index]) + (before.images if before else 0),
            )
        self._duplicates(split, header)
        names = header.images.names
        self.ceilings.add(*split.image_class_pairs.counts(), image_names=names, class_names=class_names)
        crowded = np.flatnonzero(split.objects_of_image > MOST_LABELS)
        examples = (f"{names[int(i)]} has {split.objects_of_image[i]}" for i in crowded)
        split.log.add("over_300_objects", examples, count=len(crowded))

    def _duplicates(self, split: SplitCounts, header: Header) -> None:
        split.ids.finish()
        split.log.add("duplicate_annotation_id", (f"annotation {i}" for i in split.ids.examples), count=split.ids.count)
        split.log.add("duplicate_file_name", count=header.repeats)

    @property
    def rectangles_only(self) -> bool:
        """Test whether the polygons only repeat the boxes, as an artefact of the export."""
        masks = self._masks
        outlines = int(masks[MaskKind.POLYGONS] + masks[MaskKind.RUN_LENGTHS])
        rectangles = int(masks[MaskKind.RECTANGLE])
        return only_boxes(rectangles, outlines)

    @property
    def _masks(self) -> Ints:
        return sum((split.masks for split in self.splits), zeros(len(MaskKind)))

    @property
    def masks(self) -> int:
        """Number of objects with a mask, without crowds."""
        kinds = self._masks
        outlines = int(kinds[MaskKind.POLYGONS] + kinds[MaskKind.RUN_LENGTHS])
        return 0 if self.rectangles_only else outlines + int(kinds[MaskKind.RECTANGLE])

    def _sum(self, name: str) -> int:
        return sum(int(getattr(split, name)) for split in self.splits)

    def report(self, log: ProblemLog) -> None:
        """Log problems that are visible only in the whole dataset."""
        read, usable, targets = self._sum("read"), self._sum("usable"), self._sum("targets")
        if not self.images_read:
            log.add("no_images")
        if not self.classes:
            log.add("no_categories")
        if not read:
            log.add("no_annotations")
        elif not targets:
            log.add("no_usable_annotations")
        log.add("crowds", count=self._sum("crowds"))
        log.add("over_100_objects", self.ceilings.examples(), count=self.ceilings.full)
        if self.rectangles_only:
            log.add("box_polygons", count=int(self._masks[MaskKind.RECTANGLE]))
        elif 0 < self.masks < targets:
            log.add("partly_masked", [f"{self.masks} of {targets}"])
        if not usable:
            return
        counts = {c.name: c.annotations for c in self.classes.values()}
        used = {name: count for name, count in counts.items() if count}
        unused = [name for name, count in counts.items() if not count]
        log.add("unused_class", unused, count=len(unused))
        rare = [f"{name} ({count})" for name, count in used.items() if count < RARE_OBJECTS]
        log.add("rare_class", rare, count=len(rare))
        if max(used.values()) > IMBALANCE * min(used.values()):
            log.add("imbalanced", [max(used, key=used.__getitem__), min(used, key=used.__getitem__)])
        log.add("empty_image", count=self.images - self._with_objects)
        if self._with_objects < FEW_IMAGES:
            log.add("few_images", [f"{self._with_objects} images"])

    @property
    def _with_objects(self) -> int:
        return sum(int(np.count_nonzero(split.objects_of_image)) for split in self.splits)

    def info(self, *, source: str, digest: str, splits: dict[str, int], log: ProblemLog) -> DatasetInfo:
        """Build the DatasetInfo; ``splits``: number of usable images by split."""
        usable, targets = self._sum("usable"), self._sum("targets")
        read, rectangles = list(zip(splits, self.splits, strict=True)), self.rectangles_only
        return DatasetInfo(
            source=source,
            digest=digest,
            splits=splits,
            images_with_objects={name: split.marks.with_objects() for name, split in read},
            images_with_masks={name: split.marks.with_masks(rectangles_only=rectangles) for name, split in read},
            left_out={name: split.left_out() for name, split in read},
            images=self.images,
            images_read=self.images_read,
            annotations=usable,
            annotations_read=self._sum("read"),
            has_boxes=targets > 0,
            has_masks=self.masks > 0 and self.masks >= MASK_SHARE * targets,
            boxes_derived=self._sum("derived"),
            masks=self.masks,
            crowd_share=round(self._sum("crowds") / usable, 4) if usable else 0.0,
            classes=self._numbered_classes(),
            sizes=self._size_info() if targets else None,
            image_sizes=self._images_info() if self.images else None,
            problems=log.problems(),
        )

    def _numbered_classes(self) -> tuple[ClassInfo, ...]:
        """Return the classes with unique integer ids; ids that are text in the file are replaced."""
        numbers = as_numbers([self.class_ids[name] for name in self.classes])
        classes = zip(self.classes.values(), numbers, strict=True)
        return tuple(one.model_copy(update={"id": number}) for one, number in classes)

    def _size_info(self) -> SizeInfo:
        small, medium, large = (int(n) for n in sum((split.areas for split in self.splits), zeros(3)))
        sides = sum((split.sides for split in self.splits), zeros(len(SIDES) + 1))
        ratios = sum((split.ratios for split in self.splits), zeros(len(RATIOS) + 1))
        return SizeInfo(
            small=small,
            medium=medium,
            large=large,
            relative_side=(_percentile(sides, SIDES, 10), _percentile(sides, SIDES, 50), _percentile(sides, SIDES, 90)),
            elongation=_percentile(ratios, RATIOS, 50),
        )

    def _images_info(self) -> ImagesInfo:
        sizes = np.concatenate(self.image_sizes)
        width, height = sizes[np.argmax(sizes.prod(axis=1))]
        objects = np.concatenate([split.objects_of_image for split in self.splits])
        return ImagesInfo(
            median_size=(int(np.median(sizes[:, 0])), int(np.median(sizes[:, 1]))),
            largest_size=(int(width), int(height)),
            without_annotations=self.images - self._with_objects,
            objects_mean=round(float(objects.sum() / max(1, self._with_objects)), 2),
            objects_max=int(objects.max(initial=0)),
        )


def only_boxes(rectangles: int, outlines: int) -> bool:
    """Test whether polygons equal to their box are an artefact of the export, given the number of real outlines."""
    return rectangles >= ENOUGH_RECTANGLES and rectangles >= RECTANGLE_SHARE * (rectangles + outlines)


def _percentile(histogram: Ints, borders: NDArray[np.float64], percent: float) -> float:
    """Return a percentile of a histogram made with :func:`numpy.digitize`; 0 if it is empty."""
    total = int(histogram.sum())
    if not total:
        return 0.0
    index = int(np.searchsorted(np.cumsum(histogram), total * percent / 100))
    return round(float(borders[min(max(index - 1, 0), len(borders) - 1)]), 4)


def class_order(class_id: int | str) -> tuple[int, int, str]:
    """Sort key of class ids: numbers in order, then text."""
    return (0, class_id, "") if isinstance(class_id, int) else (1, 0, class_id)

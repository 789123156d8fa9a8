"""Labelled images of other classes than those of the data, to measure retention of the base's zero-shot AP."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from engine.config import DataConfig
from engine.config.model import SplitFilesConfig
from engine.dataset import CocoDataset, ImageFolder, load_split
from engine.dataset.checks.class_name_checks import cleaned
from engine.dataset.checks.unreadable_images import Unreadable, check_few, find_unreadable
from engine.dataset.export_layouts import find_single_split
from engine.dataset.splits.divide import images_with_objects
from engine.evaluation.retention import BUILT_IN, PROBE
from engine.storage import Storage
from engine.training.data.annotated_splits import SplitData


@dataclass(frozen=True)
class RetentionData:
    """The images and their source.

    Attributes:
        split: Images with the classes to prompt; every image shows one of them.
        source: URI of the annotations, or :data:`BUILT_IN`.
        unreadable: Excluded images.
    """

    split: SplitData
    source: str
    unreadable: Unreadable = field(default_factory=Unreadable)


def prepare_retention_data(
    given: SplitFilesConfig | None, data: DataConfig, *, masks: bool, storage: Storage, cache: Path
) -> RetentionData | None:
    """Load the retention images without the classes of the training data, and fetch them to the disk.

    Args:
        given: The user's own images; None for the built-in ones.
        data: Training data, whose classes and phrases are left out, regardless of spelling variants.
        masks: Whether only objects with a mask count.
        storage: Source of annotations and images.
        cache: Cache folder for images.

    Returns:
        None if no class is left.

    Raises:
        DataError: The annotations are not a COCO dataset, or too many images are unusable.
        StorageError: A file is unavailable.
    """
    uri, images = (str(PROBE), None) if given is None else (given.annotations, given.images)
    files = find_single_split(uri, images, storage=storage)
    dataset = _others(load_split(files, storage=storage), data, masks=masks)
    if not dataset.classes:
        return None
    folder = ImageFolder(files.images, storage=storage, cache=cache)
    split = SplitData(dataset, tuple(folder.path(image) for image in dataset.images))
    if given is None:
        return RetentionData(split, BUILT_IN)
    unreadable = find_unreadable(dataset, folder, split.paths, masks=masks, cache=cache)
    check_few(unreadable, len(dataset), max_percent=data.max_skipped_percent)
    return RetentionData(split.without(unreadable, unreadable.frames.frame()), given.annotations, unreadable)


def _others(dataset: CocoDataset, data: DataConfig, *, masks: bool) -> CocoDataset:
    """Return the images that show other classes than the training data, with only these classes."""
    known = {cleaned(name) for name in (*data.classes, *data.prompts.values())}
    shown = {
        found.class_index
        for objects in dataset.annotations
        for found in objects
        if not found.iscrowd and (found.segmentation or not masks)
    }
    kept = [name for i, name in enumerate(dataset.classes) if i in shown and cleaned(name) not in known]
    dataset = dataset.with_classes(kept)
    return dataset.subset(images_with_objects(dataset, masks=masks))

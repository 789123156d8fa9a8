"""The model to export, and the images to measure it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.dataset import CocoDataset, ImageFolder, Sample, load_dataset, load_sample
from engine.dataset.sample_loader import with_frame
from engine.dataset.splits.divide import images_with_objects
from engine.dataset.splits.trained_images import images_of_split
from engine.errors import ConfigError, DataError
from engine.layout import ADAPTER
from engine.models.adapter_files import find_adapters, local_adapter
from engine.models.base_sources import WEIGHTS
from engine.models.load import load_adapted
from engine.models.measured_quality import read_category_ids
from engine.models.predictor import Predictor
from engine.spec import Crowds, ExifOrientation
from engine.storage import Storage
from engine.storage.publication import sha256_of
from engine.students.load import find_student, load_student, local_student


@dataclass(frozen=True, eq=False)
class Source:
    """A model to export.

    Attributes:
        model: The model in torch, on the CPU.
        uri: Folder of the adapter or student.
        name: Its name, such as ``GroundingDino``.
        slug: Name of the folder of its artifacts.
        digest: sha256 of the adapter or weights.
        category_ids: Ids of its classes in the dataset that it was trained on.
    """

    model: Any
    uri: str
    name: str
    slug: str
    digest: str
    category_ids: tuple[int, ...]


def open_source(
    *,
    student: str | None,
    adapters: str | None,
    teacher: str | None,
    base_model: str | None,
    storage: Storage,
    cache: Path,
) -> Source:
    """Return the student or the tuned teacher to export.

    Raises:
        BaseModelError: It is unavailable.
        ConfigError: Both or neither are given, or options that do not go with a student.
    """
    if (student is None) == (adapters is None):
        raise ConfigError("give either --student, or --adapters of a run with a tuned teacher (student=, adapters=)")
    if student is not None:
        if teacher is not None or base_model is not None:
            raise ConfigError("--teacher and --base-model go with --adapters: leave them out with --student")
        return trained_student(student, storage=storage)
    return adapted_teacher(str(adapters), teacher=teacher, base_model=base_model, storage=storage, cache=cache)


def adapted_teacher(
    adapters: str, *, teacher: str | None, base_model: str | None, storage: Storage, cache: Path
) -> Source:
    """Return a tuned teacher of a run.

    Raises:
        BaseModelError: Adapter or base is unavailable.
        ConfigError: The run has several teachers, or not the requested one.
    """
    model = load_adapted(adapters, teacher=teacher, base_model=base_model, storage=storage, cache=cache, device="cpu")
    uri = find_adapters(adapters, storage=storage)[model.name]
    with local_adapter(uri, storage) as folder:
        digest = sha256_of(folder / ADAPTER)
    ids = read_category_ids(uri, model.classes, storage)
    return Source(model, uri, model.name.value, model.name.slug, digest, ids)


def trained_student(student: str, *, storage: Storage) -> Source:
    """Return a trained student.

    Raises:
        BaseModelError: It is unavailable or damaged.
    """
    uri = find_student(student, storage=storage)
    model = load_student(uri, storage=storage, device="cpu")
    with local_student(uri, storage) as folder:
        digest = sha256_of(folder / WEIGHTS)
    ids = read_category_ids(uri, model.classes, storage)
    return Source(model, uri, model.name.value, model.name.slug, digest, ids)


@dataclass(frozen=True, eq=False)
class MeasuringImages:
    """Images with true objects.

    Attributes:
        dataset: Ground truth.
        load: Returns the sample of an image by its index.
        split: ``val`` if they are the validation split of the run, else ``all``.
    """

    dataset: CocoDataset
    load: Callable[[int], Sample]
    split: str

    def samples(self, limit: int) -> list[Sample]:
        """Return at most ``limit`` samples, evenly spread over the images."""
        count = len(self.dataset)
        return [self.load(i * count // min(limit, count)) for i in range(min(limit, count))]


def measuring_images(
    source: Predictor,
    data: str,
    images: str | None,
    *,
    uri: str | None,
    crowds: Crowds,
    exif_orientation: ExifOrientation,
    storage: Storage,
    cache: Path,
) -> MeasuringImages:
    """Return the validation images of a run among those of a dataset; all images if the run has no such list.

    Args:
        source: Predictor with ``classes``, ``iou_type`` and ``frame``.
        data: Annotations.
        images: Folder of the images; None: next to the annotations.
        uri: Folder of the adapter or student, with the lists of its splits; None: unknown.
        crowds: Meaning of annotations with ``iscrowd: 1``.
        exif_orientation: Orientation of the images during annotation.
        storage: Access to data and images.
        cache: Where images are kept.

    Raises:
        DataError: There is nothing to measure on.
    """
    masks = source.iou_type == "segm"
    dataset = load_dataset(data, images, storage=storage, crowds=crowds).with_classes(source.classes)
    folder = ImageFolder.of(data, images, storage=storage, cache=cache)
    val = None if uri is None else images_of_split(uri, "val", dataset, folder, storage)
    split = "val" if val else "all"
    if val:
        names = set(val)
        dataset = dataset.subset([i for i, image in enumerate(dataset.images) if image.file_name in names])
    if not images_with_objects(dataset, masks=masks):
        raise DataError(f"{data} has no {'masks' if masks else 'boxes'} of {', '.join(source.classes)} to measure on")
    folder.sync(dataset.images)
    paths = [folder.path(image) for image in dataset.images]
    dataset, _ = with_frame(dataset, paths, requested=exif_orientation, unknown=source.frame)
    return MeasuringImages(dataset, lambda i: load_sample(dataset, i, paths[i], with_masks=masks), split)

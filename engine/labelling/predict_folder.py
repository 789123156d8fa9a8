"""Run one adapted teacher on a folder of images that fits in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine.dataset import CocoDataset, CocoImage, Detections, ImageFolder, folder_dataset, load_dataset, load_sample
from engine.dataset.class_match import match_classes
from engine.dataset.coco_export import detections_to_coco
from engine.dataset.images.decoding import probe_image
from engine.dataset.sample_loader import frame_of, with_frame
from engine.dataset.types import Frame
from engine.errors import ConfigError, DataError
from engine.labelling.overlays import Overlays
from engine.models.predictor import Predictor
from engine.storage import Storage, default_cache


@dataclass(frozen=True)
class Predicted:
    """Detections in the images of a folder.

    Attributes:
        images: The images in the size in which they were detected.
        detections: For each image, before any threshold.
        coco: COCO JSON of the detections from the threshold on.
    """

    images: tuple[CocoImage, ...]
    detections: list[Detections]
    coco: dict[str, Any]


def prompting_dataset(
    teacher: Predictor,
    images: str,
    boxes: str | None,
    *,
    adapter: str,
    storage: Storage,
    warn: Callable[[str], None],
) -> CocoDataset:
    """Return the images of a folder with the boxes that prompt the teacher, if it needs some.

    Args:
        teacher: The adapted teacher, or an exported model.
        images: Folder of the images.
        boxes: COCO JSON of the boxes.
        adapter: URI of the adapter or artifact, for messages.
        storage: Access to object storage.
        warn: Receives differences between the classes of boxes and adapter.

    Raises:
        ConfigError: The teacher is prompted by boxes and there are none, or the other way round.
        DataError: The folder contains no images.
    """
    prompted = teacher.iou_type == "segm"
    if prompted and boxes is None:
        raise ConfigError(f"{adapter} is of a model that is prompted by boxes: give --boxes, such as predict wrote")
    if not prompted and boxes is not None:
        raise ConfigError(f"--boxes {boxes} are prompts, but the model of {adapter} takes none: leave it out")
    if boxes is None:
        dataset = folder_dataset(images, teacher.classes, storage=storage)
    else:
        prompts = load_dataset(boxes, images, storage=storage, copies=True)
        for sentence in match_classes(prompts, teacher.classes, side="the adapter").sentences():
            warn(sentence)
        dataset = prompts.with_classes(teacher.classes)
    if not len(dataset):
        raise DataError(f"{images} holds no images: give the folder that they are in")
    return dataset


def predict_folder(
    teacher: Predictor,
    dataset: CocoDataset,
    images: str,
    *,
    threshold: float,
    batch_size: int,
    overlays: Overlays | None,
    storage: Storage,
) -> Predicted:
    """Detect objects in all images of :func:`prompting_dataset`.

    Args:
        teacher: The adapted teacher, or an exported model.
        dataset: Images and prompts.
        images: Folder of the images.
        threshold: Lowest score in ``coco`` and in drawn images.
        batch_size: Images per forward pass.
        overlays: Where every image is drawn; None draws none.
        storage: Access to object storage.
    """
    folder = ImageFolder(images, storage=storage, cache=default_cache())
    folder.sync(dataset.images)
    paths = [folder.path(image) for image in dataset.images]
    dataset, _ = with_frame(dataset, paths, unknown=teacher.frame)
    exif: dict[str, tuple[int, Frame]] = {}
    detections: list[Detections] = []
    sized: list[CocoImage] = []
    for start in range(0, len(dataset), batch_size):
        chunk = range(start, min(start + batch_size, len(dataset)))
        samples = [load_sample(dataset, i, paths[i], with_masks=False) for i in chunk]
        detections += teacher.predict(samples)
        for i, sample in zip(chunk, samples, strict=True):
            image = dataset.images[i]
            header = probe_image(paths[i], name=image.file_name)
            exif[image.file_name] = (header.orientation, frame_of(image, header, dataset.frame))
            height, width = sample.image.shape[:2]
            sized.append(replace(image, width=width, height=height))
            if overlays is not None:
                kept = detections[i].select(np.flatnonzero(detections[i].scores >= threshold))
                overlays.write(image.file_name, sample.image, kept, teacher.classes, storage=storage)
    detected = replace(dataset, images=tuple(sized))
    coco = detections_to_coco(detected, detections, threshold=threshold, exif=exif)
    return Predicted(detected.images, detections, coco)

"""Convert datasets and detections to COCO dictionaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.dataset.boxes import to_xywh
from engine.dataset.file_listing import list_files
from engine.dataset.splits.split_files import is_image
from engine.dataset.types import CocoDataset, CocoImage, Detections, Frame
from engine.storage import Storage


def to_coco(dataset: CocoDataset) -> dict[str, Any]:
    """Return a valid COCO dict with the file's ids; annotation ids are counted from 1."""
    annotations: list[dict[str, Any]] = []
    for image, objects in zip(dataset.images, dataset.annotations, strict=True):
        for found in objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image.id,
                    "category_id": dataset.category_ids[found.class_index],
                    "bbox": to_xywh(found.box_xyxy),
                    "area": found.area,
                    "iscrowd": int(found.iscrowd),
                    "segmentation": found.segmentation if found.segmentation is not None else [],
                }
            )
    return _file(dataset, annotations)


def detections_to_coco(
    dataset: CocoDataset,
    detections: Sequence[Detections],
    *,
    threshold: float,
    exif: Mapping[str, tuple[int, Frame]] | None = None,
) -> dict[str, Any]:
    """Return a teacher's detections as a COCO dict, each object with its ``score``.

    Args:
        dataset: The images and classes.
        detections: Detections of each image.
        threshold: Minimum score to keep.
        exif: EXIF orientation by file name, of images that it turns, and the frame of their detections.
    """
    annotations: list[dict[str, Any]] = []
    for image, seen in zip(dataset.images, detections, strict=True):
        for i in np.flatnonzero(seen.scores >= threshold):
            box = to_xywh(seen.boxes_xyxy[i].tolist())
            rle = None if seen.masks is None else seen.masks[i]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image.id,
                    "category_id": dataset.category_ids[int(seen.class_indices[i])],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                    "segmentation": [] if rle is None else {**rle, "counts": rle["counts"].decode("ascii")},
                    "score": float(seen.scores[i]),
                }
            )
    coco = _file(dataset, annotations)
    for image in coco["images"]:
        orientation, frame = (exif or {}).get(image["file_name"], (1, Frame.UPRIGHT))
        if orientation != 1:
            image |= {"exif_orientation": orientation, "exif_applied": frame is Frame.UPRIGHT}
    return coco


def folder_dataset(folder: str, classes: Sequence[str], *, storage: Storage) -> CocoDataset:
    """Return the images of a folder as a dataset without objects."""
    keys = [item.key for item in list_files(folder, storage) if is_image(item.key)]
    return CocoDataset(
        images=tuple(CocoImage(i, key, 0, 0) for i, key in enumerate(keys, start=1)),
        annotations=((),) * len(keys),
        classes=tuple(classes),
        category_ids=tuple(range(1, len(classes) + 1)),
    )


def _file(dataset: CocoDataset, annotations: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "images": [
            {"id": image.id, "file_name": image.file_name, "width": image.width, "height": image.height}
            for image in dataset.images
        ],
        "annotations": annotations,
        "categories": [
            {"id": class_id, "name": name} for class_id, name in zip(dataset.category_ids, dataset.classes, strict=True)
        ],
    }

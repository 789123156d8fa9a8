"""A dataset back as COCO."""

from __future__ import annotations

from typing import Any

from engine.dataset.types import CocoDataset


def to_coco(dataset: CocoDataset) -> dict[str, Any]:
    """A valid COCO dict with the ids of the file; annotation ids are counted from 1."""
    annotations: list[dict[str, Any]] = []
    for image, objects in zip(dataset.images, dataset.annotations, strict=True):
        for found in objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image.id,
                    "category_id": dataset.category_ids[found.class_index],
                    "bbox": list(found.box_xywh),
                    "area": found.area,
                    "iscrowd": int(found.iscrowd),
                    "segmentation": found.segmentation if found.segmentation is not None else [],
                }
            )
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

"""Convert the ground truth of a dataset for COCO's evaluation and for drawing."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from engine.dataset.boxes import to_xywh
from engine.dataset.masks import encode_segmentation
from engine.dataset.types import CocoAnnotation, CocoDataset, CocoImage, Detections, Rle

IouType = Literal["bbox", "segm"]


def mask_rle(annotation: CocoAnnotation, image: CocoImage) -> Rle | None:
    """Return the mask of one object, or None if it has none."""
    if not annotation.segmentation:
        return None
    return encode_segmentation(annotation.segmentation, image.height, image.width)


def coco_ground_truth(dataset: CocoDataset, iou_type: IouType) -> dict[str, Any]:
    """Convert the dataset to a COCO dictionary for the evaluation.

    An image's id is its index, a category's id the index of the class. For ``segm``, objects without a mask are
    excluded, since their detections cannot be compared.
    """
    annotations: list[dict[str, Any]] = []
    for index, (image, objects) in enumerate(zip(dataset.images, dataset.annotations, strict=True)):
        for annotation in objects:
            rle = mask_rle(annotation, image) if iou_type == "segm" else None
            if iou_type == "segm" and rle is None:
                continue
            annotations.append(
                {
                    "id": len(annotations) + 1,  # 0 would mean "unmatched" to the evaluation
                    "image_id": index,
                    "category_id": annotation.class_index,
                    "bbox": to_xywh(annotation.box_xyxy),
                    "area": annotation.area,
                    "iscrowd": int(annotation.iscrowd),
                    "segmentation": rle,
                }
            )
    return {
        "images": [{"id": i, "width": image.width, "height": image.height} for i, image in enumerate(dataset.images)],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(dataset.classes)],
    }


def truth_of(dataset: CocoDataset, index: int, *, iou_type: IouType, crowds: bool = False) -> Detections:
    """Return the objects of one image as perfect detections.

    Crowds are excluded, for ``segm`` also objects without a mask. With ``crowds``, return only the crowds.
    ``prompt_indices`` are indices into ``dataset.annotations[index]``.
    """
    image = dataset.images[index]
    positions, boxes, masks = [], [], []
    for position, annotation in enumerate(dataset.annotations[index]):
        if annotation.iscrowd != crowds:
            continue
        rle = mask_rle(annotation, image) if iou_type == "segm" else None
        if iou_type == "segm" and rle is None:
            continue
        positions.append(position)
        boxes.append(annotation.box_xyxy)
        masks.append(rle)
    return Detections(
        boxes_xyxy=np.asarray(boxes, np.float32).reshape(-1, 4),
        scores=np.ones(len(boxes), np.float32),
        class_indices=np.asarray([dataset.annotations[index][i].class_index for i in positions], np.int64),
        masks=[rle for rle in masks if rle is not None] if iou_type == "segm" else None,
        prompt_indices=np.asarray(positions, np.int64) if iou_type == "segm" else None,
    )

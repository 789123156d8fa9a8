"""Compute COCO's average precision, and SAM's mean IoU.

The metrics equal those of pycocotools' ``COCOeval`` (Lin et al., https://arxiv.org/abs/1405.0312) and are computed by
faster-coco-eval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from engine.dataset.boxes import to_xywh
from engine.dataset.types import Detections, Rle
from engine.evaluation.ground_truth import GroundTruth, IouType
from engine.results.metrics import ApMetrics

ALL, SMALL, MEDIUM, LARGE = range(4)  # COCO's areas: any, up to 32x32, up to 96x96, above
AT_1, AT_10, AT_100 = range(3)  # maximum detections per image, highest scores first
MAX_DETECTIONS = 100  # per class and image, as COCO defines it
IOU_50, IOU_75 = 0, 5  # of the IoU thresholds .50:.05:.95


def coco_ap(truth: GroundTruth, detections: Sequence[Detections]) -> ApMetrics:
    """Compute COCO's twelve metrics and the AP of each class.

    Detections inside crowd regions are ignored, as COCO does. For ``segm``, objects without a mask are excluded.
    At most 100 detections per class and image count, as COCO defines it; if an image has more objects of a class,
    ``ap_ceiling`` is the AP of perfect detections.

    Args:
        truth: Ground truth, and how detections are compared with it.
        detections: Detections in each image of ``truth.dataset``, in its order.

    Returns:
        Metrics in 0..1; -1 without ground-truth objects.
    """
    dataset, iou_type, annotated = truth.dataset, truth.iou_type, truth.coco()
    results = {**annotated, "annotations": list(_results(detections, iou_type))}
    evaluation = COCOeval_faster(COCO(annotated), COCO(results), iouType=iou_type)
    if dataset.images and dataset.classes:
        evaluation.evaluate()
        evaluation.accumulate()
        precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    else:
        classes = len(dataset.classes)
        precision, recall = np.full((10, 101, classes, 4, 3), -1.0), np.full((10, classes, 4, 3), -1.0)
    # precision: (IoU, recall, class, area, detections); recall: the same without recall
    return ApMetrics(
        ap=_mean(precision[..., ALL, AT_100]),
        ap50=_mean(precision[IOU_50, :, :, ALL, AT_100]),
        ap75=_mean(precision[IOU_75, :, :, ALL, AT_100]),
        ap_small=_mean(precision[..., SMALL, AT_100]),
        ap_medium=_mean(precision[..., MEDIUM, AT_100]),
        ap_large=_mean(precision[..., LARGE, AT_100]),
        ar1=_mean(recall[..., ALL, AT_1]),
        ar10=_mean(recall[..., ALL, AT_10]),
        ar100=_mean(recall[..., ALL, AT_100]),
        ar_small=_mean(recall[..., SMALL, AT_100]),
        ar_medium=_mean(recall[..., MEDIUM, AT_100]),
        ar_large=_mean(recall[..., LARGE, AT_100]),
        per_class={name: _mean(precision[:, :, i, ALL, AT_100]) for i, name in enumerate(dataset.classes)},
        images=len(dataset),
        **_ceiling(annotated),
    )


def _ceiling(truth: dict[str, Any]) -> dict[str, Any]:
    """Compute the AP of perfect detections and count the images that limit it; empty if no image has a limit.

    Precision is 1 up to the maximum recall, and 0 at the rest of COCO's 101 recall thresholds.
    """
    counts = Counter((one["image_id"], one["category_id"]) for one in truth["annotations"] if not one["iscrowd"])
    dense = {image for (image, _), count in counts.items() if count > MAX_DETECTIONS}
    if not dense:
        return {}
    total, reached = Counter[int](), Counter[int]()
    for (_, category), count in counts.items():
        total[category] += count
        reached[category] += min(count, MAX_DETECTIONS)
    recall = np.array([reached[category] / count for category, count in total.items()])
    return {"ap_ceiling": float(((np.floor(recall * 100 + 1e-9) + 1) / 101).mean()), "dense_images": len(dense)}


def mean_iou(truth: GroundTruth, detections: Sequence[Detections]) -> float:
    """Compute the mean IoU between each object's mask and the mask predicted from its own box.

    Crowds and objects without a mask are excluded.

    Args:
        truth: Ground truth of masks.
        detections: Detections in each image; their ``prompt_indices`` are indices into the image's annotations.

    Returns:
        0..1; an object without a predicted mask counts as 0. -1 if no object has a mask.
    """
    return _mean(np.concatenate([np.zeros(0), *object_ious(truth, detections)]))


def object_ious(truth: GroundTruth, detections: Sequence[Detections]) -> list[NDArray[np.float64]]:
    """Compute the IoUs of :func:`mean_iou` per object: one array for each image."""
    found = []
    for objects, seen in zip(truth.objects, detections, strict=True):
        predicted = _masks_by_prompt(seen)
        ious = []
        for prompt, mask in _masks_by_prompt(objects).items():
            answer = predicted.get(prompt)
            ious.append(0.0 if answer is None else float(coco_mask.iou([answer], [mask], [0])[0, 0]))
        found.append(np.asarray(ious, np.float64))
    return found


def _masks_by_prompt(detections: Detections) -> dict[int, Rle]:
    if detections.masks is None or detections.prompt_indices is None:
        return {}
    return dict(zip(detections.prompt_indices.tolist(), detections.masks, strict=True))


def _results(detections: Sequence[Detections], iou_type: IouType) -> Iterator[dict[str, Any]]:
    """Convert detections to COCO results; ``area`` decides the size range in which a detection counts."""
    number = 0
    for index, seen in enumerate(detections):
        for i, (x1, y1, x2, y2) in enumerate(seen.boxes_xyxy.tolist()):
            number += 1
            mask = seen.masks[i] if iou_type == "segm" and seen.masks is not None else None
            yield {
                "id": number,
                "image_id": index,
                "category_id": int(seen.class_indices[i]),
                "bbox": to_xywh((x1, y1, x2, y2)),
                "area": (x2 - x1) * (y2 - y1) if mask is None else float(coco_mask.area(mask)),
                "score": float(seen.scores[i]),
                "iscrowd": 0,
                "segmentation": mask,
            }


def _mean(values: NDArray[np.float64]) -> float:
    """Average the values that were measured; COCO marks others with -1."""
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else -1.0

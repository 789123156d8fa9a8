"""COCO's average precision, and SAM's mean IoU.

The numbers are those of pycocotools' ``COCOeval`` (Lin et al., https://arxiv.org/abs/1405.0312), computed by
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

from engine.dataset.types import CocoDataset, Detections, Rle
from engine.evaluation.ground_truth import IouType, coco_ground_truth, truth_of
from engine.result_types import ApMetrics

ALL, SMALL, MEDIUM, LARGE = range(4)  # COCO's areas: any, up to 32x32, up to 96x96, above
AT_1, AT_10, AT_100 = range(3)  # how many detections an image count, the surest first
MAX_DETECTIONS = 100  # of a class an image: COCO counts no more
IOU_50, IOU_75 = 0, 5  # of the IoU thresholds .50:.05:.95


def coco_ap(dataset: CocoDataset, detections: Sequence[Detections], *, iou_type: IouType) -> ApMetrics:
    """COCO's twelve numbers and the AP of each class.

    Crowds are neither objects nor mistakes: detections inside them are passed over. For ``segm``, objects without a
    mask are left out. At most 100 detections of a class an image count, as COCO defines it; where there are more
    objects, ``ap_ceiling`` is the AP that perfect detections would have.

    Args:
        dataset: The truth.
        detections: Of each image of ``dataset``, in its order.
        iou_type: Whether boxes or masks are compared.

    Returns:
        Numbers in 0..1; -1 where there are no objects to find.
    """
    truth = coco_ground_truth(dataset, iou_type)
    results = {**truth, "annotations": list(_results(detections, iou_type))}
    evaluation = COCOeval_faster(COCO(truth), COCO(results), iouType=iou_type)
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
        **_ceiling(truth),
    )


def _ceiling(truth: dict[str, Any]) -> dict[str, Any]:
    """AP of perfect detections and the images that limit it; nothing where all objects count.

    Precision is 1 up to the recall that can be reached, and 0 at the rest of COCO's 101 recalls.
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


def mean_iou(dataset: CocoDataset, detections: Sequence[Detections]) -> float:
    """Mean over objects with a mask, crowds aside, of the IoU of the mask that the object's own box prompted.

    Args:
        dataset: The truth.
        detections: Of each image; their ``prompt_indices`` are positions in ``dataset.annotations[i]``.

    Returns:
        0..1; an object that no mask was predicted for counts as 0. -1 where no object has a mask.
    """
    return _mean(np.concatenate([np.zeros(0), *object_ious(dataset, detections)]))


def object_ious(dataset: CocoDataset, detections: Sequence[Detections]) -> list[NDArray[np.float64]]:
    """Of each image, the IoU of every object's mask with the one that its box prompted: see :func:`mean_iou`."""
    found = []
    for index, seen in enumerate(detections):
        predicted = _masks_by_prompt(seen)
        ious = []
        for prompt, mask in _masks_by_prompt(truth_of(dataset, index, iou_type="segm")).items():
            answer = predicted.get(prompt)
            ious.append(0.0 if answer is None else float(coco_mask.iou([answer], [mask], [0])[0, 0]))
        found.append(np.asarray(ious, np.float64))
    return found


def _masks_by_prompt(detections: Detections) -> dict[int, Rle]:
    if detections.masks is None or detections.prompt_indices is None:
        return {}
    return dict(zip(detections.prompt_indices.tolist(), detections.masks, strict=True))


def _results(detections: Sequence[Detections], iou_type: IouType) -> Iterator[dict[str, Any]]:
    """Detections as COCO's evaluation takes them; the area decides which sizes a detection counts for."""
    number = 0
    for index, seen in enumerate(detections):
        for i, (x1, y1, x2, y2) in enumerate(seen.boxes_xyxy.tolist()):
            number += 1
            mask = seen.masks[i] if iou_type == "segm" and seen.masks is not None else None
            yield {
                "id": number,
                "image_id": index,
                "category_id": int(seen.class_indices[i]),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1) if mask is None else float(coco_mask.area(mask)),
                "score": float(seen.scores[i]),
                "iscrowd": 0,
                "segmentation": mask,
            }


def _mean(values: NDArray[np.float64]) -> float:
    """COCO marks what could not be measured with -1."""
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else -1.0

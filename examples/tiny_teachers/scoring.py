"""AP of a detector on samples in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from engine.dataset.types import Sample
from engine.teachers.grounding_dino.model import GroundingDino


def average_precision(teacher: GroundingDino, samples: list[Sample], batch_size: int) -> tuple[float, float]:
    """Compute AP and AP50 of the teacher's classes."""
    boxes = [(i, b, c) for i, s in enumerate(samples) for b, c in zip(s.boxes_xyxy, s.class_indices, strict=True)]
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i} for i in range(len(samples))],
        "categories": [{"id": i} for i in range(len(teacher.classes))],
        "annotations": [
            {"id": n, "image_id": i, "category_id": int(c), "iscrowd": 0, **_box(b)}
            for n, (i, b, c) in enumerate(boxes, start=1)
        ],
    }
    truth.createIndex()
    found = [
        {"image_id": i, "category_id": int(c), "score": float(s), "bbox": _box(b)["bbox"]}
        for start in range(0, len(samples), batch_size)
        for i, d in enumerate(teacher.predict(samples[start : start + batch_size]), start=start)
        for b, s, c in zip(d.boxes_xyxy, d.scores, d.class_indices, strict=True)
    ]
    measured = COCOeval(truth, truth.loadRes(found), "bbox")
    measured.evaluate()
    measured.accumulate()
    measured.summarize()
    return float(measured.stats[0]), float(measured.stats[1])


def _box(corners: np.ndarray) -> dict[str, Any]:
    left, top, right, bottom = (float(v) for v in corners)
    return {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}

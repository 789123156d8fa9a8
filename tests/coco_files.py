"""COCO files for tests: a small right one, and what makes it wrong."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

Coco = dict[str, Any]


def small_coco(images: int = 12, objects: int = 3, *, masks: bool = False) -> Coco:
    """Images of 64x48 pixels with ``objects`` each, of the classes cat (id 1) and dog (id 3) by turns."""
    annotations = []
    for image in range(1, images + 1):
        for k in range(objects):
            box = [4 + 15 * k, 5, 12, 20 + k]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": (1, 3)[len(annotations) % 2],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                    "segmentation": triangle(*box) if masks else [],
                }
            )
    return {
        "info": {"year": 2026},
        "images": [
            {"id": i, "file_name": f"{i:03d}.png", "width": 64, "height": 48, "license": 1}
            for i in range(1, images + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}],
    }


def triangle(x: float, y: float, width: float, height: float) -> list[list[float]]:
    return [[x, y, x + width, y, x, y + height]]


def rectangle(x: float, y: float, width: float, height: float) -> list[list[float]]:
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def compressed(mask: np.ndarray) -> Coco:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode("ascii")}


def uncompressed(mask: np.ndarray) -> Coco:
    flat = mask.T.ravel()
    borders = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], borders, [len(flat)]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def changed(coco: Coco, change: Callable[[Coco], object]) -> Coco:
    result = copy.deepcopy(coco)
    change(result)
    return result


def write(path: Path, coco: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(coco), encoding="utf-8")
    return path


def write_images(folder: Path, names: list[str], *, size: tuple[int, int] = (64, 48), shade: int = 100) -> Path:
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (20 * i % 256, shade, 50)).save(path)
    return folder

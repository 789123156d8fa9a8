"""Convert labels to text: one JSON line per image during the run, one COCO file at its end. Pure.

Ids are assigned when the file is assembled, so that a line does not depend on the images before it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from pycocotools import mask as coco_mask

from engine.dataset.types import Detections, Frame

Json = dict[str, Any]


class Exif(NamedTuple):
    """EXIF orientation of an image, 1..8, and the frame of its labels: rotated by EXIF, or as stored."""

    orientation: int = 1
    frame: Frame = Frame.UPRIGHT


UPRIGHT = Exif()


def image_line(
    file_name: str, size: tuple[int, ...], seen: Detections, category_ids: Sequence[int], exif: Exif = UPRIGHT
) -> bytes:
    """Return the line, without line end, for the detections in an image of ``size`` (height, width).

    The line records an EXIF rotation, since not every reader of the labels applies it.
    """
    height, width = size
    objects = list(_objects(seen, category_ids))
    image: Json = {"file_name": file_name, "width": width, "height": height}
    if exif.orientation != 1:
        image |= {"exif_orientation": exif.orientation, "exif_applied": exif.frame is Frame.UPRIGHT}
    return dumps({"image": image, "objects": objects})


def skipped_line(file_name: str, reason: str) -> bytes:
    """Return the line for an unreadable image."""
    return dumps({"skipped": {"file_name": file_name, "reason": reason}})


def dumps(value: object) -> bytes:
    """Encode as compact JSON."""
    return json.dumps(value, separators=(",", ":")).encode()


class Assembly:
    """Assigns ids: an image's id is its position in the listing, from 1; annotations are numbered from 1."""

    def __init__(self) -> None:
        self.listed = self.images = self.objects = 0
        self.skipped: list[Json] = []

    def add(self, line: bytes) -> tuple[bytes | None, Iterable[bytes]]:
        """Convert a line to a COCO image, or None for a skipped image, and its annotations."""
        record: Json = json.loads(line)
        self.listed += 1
        if "skipped" in record:
            self.skipped.append(record["skipped"])
            return None, ()
        self.images += 1
        annotations = []
        for found in record["objects"]:
            self.objects += 1
            annotations.append(dumps({"id": self.objects, "image_id": self.listed, **found}))
        return dumps({"id": self.listed, **record["image"]}), annotations


def _objects(seen: Detections, category_ids: Sequence[int]) -> Iterator[Json]:
    for i, corners in enumerate(seen.boxes_xyxy.tolist()):
        left, top, right, bottom = (round(value, 2) for value in corners)
        width, height = round(right - left, 2), round(bottom - top, 2)
        rle = None if seen.masks is None else seen.masks[i]
        yield {
            "category_id": int(category_ids[int(seen.class_indices[i])]),
            "bbox": [left, top, width, height],
            "area": round(width * height, 2) if rle is None else float(coco_mask.area(rle)),
            "iscrowd": 0,
            "segmentation": []
            if rle is None
            else {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")},
            "score": round(float(seen.scores[i]), 5),
            **({"ignore": 1} if seen.unsure is not None and seen.unsure[i] else {}),
        }

"""Read labels with scores, as written by ``label`` and ``predict``, to evaluate them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.dataset.masks import encode_segmentation
from engine.dataset.types import Detections, Frame, Rle
from engine.errors import DataError
from engine.storage import Storage

LONGEST_SIDE = 1 << 20
"""Maximum side of an image in pixels."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of some images.

    Attributes:
        classes: Names, in the order of class indices.
        sizes: Width and height of each image in pixels, by file name; zeros if unknown.
        exif: By file name, the EXIF orientation of rotated images, and the frame of their labels.
        seen: By file name, the highest score first; with ``masks`` if any object of the file has one.
        unmasked: By file name, in the order of ``seen``, the objects without a mask; theirs in ``seen`` is empty.
        crowds: By file name, in the order of ``seen``, the objects with ``"iscrowd": 1``.
        unsure: By file name, in the order of ``seen``, the objects with ``"ignore": 1``: below the threshold of their
            class, so that it is not sure that they exist.
    """

    classes: tuple[str, ...]
    sizes: dict[str, tuple[int, int]]
    seen: dict[str, Detections]
    exif: dict[str, tuple[int, Frame]] = field(default_factory=dict)
    unsure: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    unmasked: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    crowds: dict[str, NDArray[np.bool_]] = field(default_factory=dict)

    def sure(self, name: str) -> Detections:
        """Return the objects of an image without the unsure ones."""
        unsure = self.unsure.get(name)
        return self.seen[name] if unsure is None else self.seen[name].select(np.flatnonzero(~unsure))

    @property
    def has_masks(self) -> bool:
        """True if there are objects and each has a mask."""
        without = any(one.any() for one in self.unmasked.values())
        return any(one.masks for one in self.seen.values()) and not without


def load_predictions(uri: str, *, storage: Storage) -> Predictions:
    """Read a COCO file whose annotations have a ``score``.

    Raises:
        DataError: It is something else, or contradicts itself.
        StorageError: It cannot be read.
    """
    try:
        coco = json.loads(storage.read_bytes(uri))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{uri} is not JSON ({str(error)[:200]}): give the labels that label or predict wrote"
        ) from None
    if not isinstance(coco, dict) or not all(isinstance(coco.get(k), list) for k in ("images", "annotations")):
        raise DataError(
            f"{uri} is not labels with scores: an object with images, annotations and categories is expected, such as "
            "label or predict writes"
        )
    try:
        return _predictions(coco, uri)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise DataError(
            f"{uri} is not valid COCO ({type(error).__name__}: {str(error)[:200]}): write it again"
        ) from None


def _predictions(coco: dict[str, Any], uri: str) -> Predictions:
    categories = {one["id"]: one["name"] for one in coco["categories"]}
    classes = tuple(dict.fromkeys(categories.values()))
    index = {number: classes.index(name) for number, name in categories.items()}
    images = {one["id"]: one for one in coco["images"]}
    objects: dict[Any, list[dict[str, Any]]] = {number: [] for number in images}
    for found in coco["annotations"]:
        if "score" not in found:
            raise DataError(
                f"annotation {found.get('id')} of {uri} has no score: these are annotations, not predictions; give it "
                "as --data"
            )
        if found["image_id"] not in objects:
            raise DataError(
                f"annotation {found.get('id')} of {uri} is of image {found['image_id']}, which does not exist"
            )
        objects[found["image_id"]].append(found)
    masked = any(found.get("segmentation") for found in coco["annotations"])
    names = [image["file_name"] for image in images.values()]
    if len(set(names)) < len(coco["images"]):
        raise DataError(f"{uri} holds several images of one id or file_name: objects cannot be assigned")
    sizes = {one["file_name"]: (int(one.get("width") or 0), int(one.get("height") or 0)) for one in images.values()}
    for number, image in images.items():
        if 0 in sizes[image["file_name"]]:
            _check_unmasked(objects[number], image["file_name"], uri)
    seen = {
        image["file_name"]: _detections(objects[number], index, sizes[image["file_name"]], masked=masked)
        for number, image in images.items()
    }
    exif = {
        one["file_name"]: (one["exif_orientation"], Frame.UPRIGHT if one.get("exif_applied") else Frame.STORED)
        for one in images.values()
        if one.get("exif_orientation") in range(2, 9)
    }

    ordered = {image["file_name"]: _best_first(objects[number]) for number, image in images.items()}

    def where(condition: Callable[[dict[str, Any]], bool]) -> dict[str, NDArray[np.bool_]]:
        return {name: np.array([condition(one) for one in found], np.bool_) for name, found in ordered.items()}

    return Predictions(
        classes,
        sizes,
        seen,
        exif,
        unsure=where(lambda one: one.get("ignore") in (1, True)),
        unmasked=where(lambda one: not one.get("segmentation")),
        crowds=where(lambda one: one.get("iscrowd") in (1, True)),
    )


def _check_unmasked(objects: list[dict[str, Any]], name: str, uri: str) -> None:
    """Refuse masks in an image of unknown size."""
    for found in objects:
        if found.get("segmentation"):
            raise DataError(
                f"annotation {str(found.get('id'))[:80]} of {uri} has a mask, but its image {name} has no width and "
                "height, which determine the size of the mask: add them to the image's record, or leave the masks out"
            )


def _best_first(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(objects, key=lambda found: -float(found["score"]))


def _check(found: dict[str, Any], side: int) -> None:
    """Refuse values that are not numbers, or so far outside the image that drawing them would take too long."""
    numbers = [found["score"], *found["bbox"]]
    segmentation = found.get("segmentation")
    if isinstance(segmentation, list):
        numbers += [value for polygon in segmentation for value in polygon]
    if any(isinstance(one, bool) or not isinstance(one, int | float) for one in numbers):
        raise ValueError(f"annotation {str(found.get('id'))[:80]} has something else where numbers are expected")
    if len(found["bbox"]) != 4 or not all(abs(float(one)) <= 10 * side for one in numbers):
        raise ValueError(f"annotation {str(found.get('id'))[:80]} has numbers that are not of its image")


def _detections(
    objects: list[dict[str, Any]], index: dict[Any, int], size: tuple[int, int], *, masked: bool
) -> Detections:
    if not all(0 <= side <= LONGEST_SIDE for side in size):
        raise ValueError(f"an image has {size[0]} x {size[1]} pixels")
    for found in objects:
        _check(found, max(size) or LONGEST_SIDE)
    objects = _best_first(objects)
    boxes = np.asarray([found["bbox"] for found in objects], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    masks: list[Rle] | None = None
    if masked:
        nothing = {"size": [size[1], size[0]], "counts": [size[0] * size[1]]}
        masks = [encode_segmentation(found.get("segmentation") or nothing, size[1], size[0]) for found in objects]
    return Detections(
        boxes_xyxy=boxes,
        scores=np.asarray([found["score"] for found in objects], np.float32),
        class_indices=np.asarray([index[found["category_id"]] for found in objects], np.int64),
        masks=masks,
    )

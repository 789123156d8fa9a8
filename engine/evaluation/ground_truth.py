"""Ground truth of a dataset, built once and shared by all evaluations of it.

Polygons are encoded to run lengths only here: this takes most of the time of an evaluation of masks. Run lengths, not
bitmaps, stay in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, Self

import numpy as np

from engine.dataset.boxes import to_xywh
from engine.dataset.masks import encode_segmentation
from engine.dataset.types import CocoAnnotation, CocoDataset, CocoImage, Detections, Rle

IouType = Literal["bbox", "segm"]


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Objects and crowd regions of a dataset in the form of detections.

    For ``segm``, objects and crowds without a mask are excluded, since their detections cannot be compared.

    Attributes:
        dataset: Ground truth, with the actual sizes of all images.
        iou_type: IoU of boxes (``bbox``) or masks (``segm``) that the detections are compared by.
        objects: Objects of each image as perfect detections, without crowds. For ``segm``, ``prompt_indices`` are
            indices into ``dataset.annotations[i]``.
        crowds: Crowd regions of each image, likewise.
    """

    dataset: CocoDataset
    iou_type: IouType
    objects: tuple[Detections, ...]
    crowds: tuple[Detections, ...]

    @classmethod
    def of(cls, dataset: CocoDataset, iou_type: IouType) -> Self:
        """Build the ground truth of a dataset."""
        objects, crowds = [], []
        for image, of_image in zip(dataset.images, dataset.annotations, strict=True):
            usable = list(enumerate(of_image))
            rles = None
            if iou_type == "segm":
                usable = [(index, found) for index, found in usable if found.segmentation]
                rles = [_encoded(found, image) for _, found in usable]
            every = _as_detections(usable, rles)
            is_crowd = np.asarray([found.iscrowd for _, found in usable], np.bool_)
            objects.append(every.select(np.flatnonzero(~is_crowd)))
            crowds.append(every.select(np.flatnonzero(is_crowd)))
        return cls(dataset, iou_type, tuple(objects), tuple(crowds))

    def __len__(self) -> int:
        return len(self.dataset)

    @cached_property
    def masked(self) -> MaskedImages | None:
        """The images all of whose objects have a mask, for the evaluation of masks; None if no object has one."""
        whole = [
            index
            for index, objects in enumerate(self.dataset.annotations)
            if all(found.segmentation or found.iscrowd for found in objects)
        ]
        if not any(found.segmentation for index in whole for found in self.dataset.annotations[index]):
            return None
        return MaskedImages(tuple(whole), type(self).of(self.dataset.subset(whole), "segm"))

    def coco(self) -> dict[str, Any]:
        """Return the ground truth as a COCO dictionary, which COCO's evaluation may change.

        An image's id is its index, a category's id the index of the class.
        """
        dataset = self.dataset
        annotations: list[dict[str, Any]] = []
        for index, (objects, crowds) in enumerate(zip(self.objects, self.crowds, strict=True)):
            rles = _rles_by_annotation(objects) | _rles_by_annotation(crowds)
            for position, annotation in enumerate(dataset.annotations[index]):
                if self.iou_type == "segm" and position not in rles:
                    continue
                annotations.append(
                    {
                        "id": len(annotations) + 1,  # 0 would mean "unmatched" to the evaluation
                        "image_id": index,
                        "category_id": annotation.class_index,
                        "bbox": to_xywh(annotation.box_xyxy),
                        "area": annotation.area,
                        "iscrowd": int(annotation.iscrowd),
                        "segmentation": rles.get(position),
                    }
                )
        images = [{"id": i, "width": image.width, "height": image.height} for i, image in enumerate(dataset.images)]
        categories = [{"id": i, "name": name} for i, name in enumerate(dataset.classes)]
        return {"images": images, "annotations": annotations, "categories": categories}


class MaskedImages(NamedTuple):
    """Some images of a dataset by their index, and the ground truth of their masks."""

    images: tuple[int, ...]
    truth: GroundTruth


class GroundTruths:
    """Ground truth of the few datasets that a run evaluates several times, each built once."""

    def __init__(self) -> None:
        self._built: list[GroundTruth] = []

    def of(self, dataset: CocoDataset, iou_type: IouType) -> GroundTruth:
        """Return the ground truth of a dataset; build it if none of an equal dataset exists."""
        for truth in self._built:
            if truth.iou_type == iou_type and _same_objects(truth.dataset, dataset):
                return truth
        self._built.append(GroundTruth.of(dataset, iou_type))
        return self._built[-1]


def _same_objects(one: CocoDataset, other: CocoDataset) -> bool:
    """Compare two datasets; fast if they share their annotations, as several selections from one dataset do."""
    return (one.images, one.annotations, one.classes) == (other.images, other.annotations, other.classes)


def _encoded(annotation: CocoAnnotation, image: CocoImage) -> Rle:
    return encode_segmentation(annotation.segmentation, image.height, image.width)


def _as_detections(usable: list[tuple[int, CocoAnnotation]], rles: list[Rle] | None) -> Detections:
    """Return annotations with their indices as detections of score 1."""
    return Detections(
        boxes_xyxy=np.asarray([found.box_xyxy for _, found in usable], np.float32).reshape(-1, 4),
        scores=np.ones(len(usable), np.float32),
        class_indices=np.asarray([found.class_index for _, found in usable], np.int64),
        masks=rles,
        prompt_indices=None if rles is None else np.asarray([index for index, _ in usable], np.int64),
    )


def _rles_by_annotation(found: Detections) -> dict[int, Rle]:
    if found.masks is None or found.prompt_indices is None:
        return {}
    return dict(zip(found.prompt_indices.tolist(), found.masks, strict=True))

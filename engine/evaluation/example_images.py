"""Sample images that a report shows: which ones, and what was seen in them, as plain JSON.

The trainer writes a list of :class:`SampleRecord` as ``samples.json`` and each record's image beside it, under
:attr:`SampleRecord.image_name`; the report puts the two together again as :class:`SampleView`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from engine.artifacts import SAMPLES
from engine.dataset.types import CocoDataset, Detections, Rle
from engine.evaluation.ground_truth import IouType, truth_of
from engine.evaluation.matching import pairwise_iou
from engine.result_types import Result

MIN_SCORE = 0.3
"""Detections from this score on are always shown."""

WEAK_SCORE = 0.05
"""Detections below this score are never shown."""


class DetectionsRecord(Result):
    """:class:`engine.dataset.types.Detections` of one image, as JSON holds them."""

    boxes_xyxy: tuple[tuple[float, float, float, float], ...] = Field(description="Corners in pixels.")
    scores: tuple[float, ...]
    class_indices: tuple[int, ...]
    masks: tuple[str, ...] | None = Field(default=None, description="Counts of COCO's compressed run lengths.")
    prompt_indices: tuple[int, ...] | None = Field(default=None, description="The true object that prompted each.")

    @classmethod
    def of(cls, detections: Detections) -> DetectionsRecord:
        """The record of detections, boxes rounded to a hundredth of a pixel."""
        masks, prompts = detections.masks, detections.prompt_indices
        return cls(
            boxes_xyxy=tuple(tuple(round(float(v), 2) for v in box) for box in detections.boxes_xyxy),
            scores=tuple(round(float(score), 4) for score in detections.scores),
            class_indices=tuple(int(index) for index in detections.class_indices),
            masks=None if masks is None else tuple(rle["counts"].decode("ascii") for rle in masks),
            prompt_indices=None if prompts is None else tuple(int(index) for index in prompts),
        )

    def detections(self, *, width: int, height: int) -> Detections:
        """The detections of a record of an image of that size."""
        masks, prompts = self.masks, self.prompt_indices
        return Detections(
            boxes_xyxy=np.asarray(self.boxes_xyxy, np.float32).reshape(-1, 4),
            scores=np.asarray(self.scores, np.float32),
            class_indices=np.asarray(self.class_indices, np.int64),
            masks=None if masks is None else [_rle(counts, width=width, height=height) for counts in masks],
            prompt_indices=None if prompts is None else np.asarray(prompts, np.int64),
        )


class SampleRecord(Result):
    """One image of the validation part: the truth, and what the teacher saw before and after tuning."""

    index: int = Field(ge=0, description="Position in the validation part.")
    file_name: str = Field(description="As in the dataset.")
    width: int = Field(ge=1, description="Of the original image, in whose pixels all boxes and masks are.")
    height: int = Field(ge=1)
    classes: tuple[str, ...]
    truth: DetectionsRecord
    before: DetectionsRecord
    after: DetectionsRecord

    @property
    def image_name(self) -> str:
        """Name of the image's JPEG, which may be scaled down."""
        return f"{self.index:06d}.jpg"


@dataclass(frozen=True, eq=False)
class SampleView:
    """A record with its image.

    Attributes:
        image: (h, w, 3) uint8, RGB; of the original's aspect ratio, perhaps smaller.
        record: What is seen in it.
    """

    image: NDArray[np.uint8]
    record: SampleRecord


def read_samples(folder: Path) -> list[SampleView]:
    """The samples that the trainer left in a teacher's folder: ``samples.json`` and the images in ``samples/``."""
    values = json.loads((folder / SAMPLES).read_text(encoding="utf-8"))
    views = []
    for record in map(SampleRecord.model_validate, values):
        with Image.open(folder / Path(SAMPLES).stem / record.image_name) as image:
            views.append(SampleView(np.asarray(image.convert("RGB")), record))
    return views


def _rle(counts: str, *, width: int, height: int) -> Rle:
    return {"size": [height, width], "counts": counts.encode("ascii")}


def shown(detections: Detections, objects: int) -> Detections:
    """What of ``detections`` is worth showing to people, of an image with that many true objects.

    As many of the surest as there are objects, so that a base and an adapted teacher of different confidence get the
    same number of guesses; and all from :data:`MIN_SCORE` on, so that false alarms are not hidden. Of a teacher that is
    prompted by objects, all.
    """
    if detections.prompt_indices is not None:
        return detections
    ranks = np.arange(len(detections))  # scores descend
    keep = (detections.scores >= MIN_SCORE) | ((ranks < objects) & (detections.scores >= WEAK_SCORE))
    return detections.select(np.flatnonzero(keep))


@dataclass(frozen=True)
class Agreement:
    """How far detections of one image agree with its truth.

    Attributes:
        objects: True objects.
        found: True objects with a detection of their class, one each, with an IoU of at least 0.5.
        false: Detections left over.
    """

    objects: int
    found: int
    false: int

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1 where nothing is there and nothing was seen."""
        total = self.objects + self.found + self.false
        return 2 * self.found / total if total else 1.0


def agreement(truth: Detections, detections: Detections) -> Agreement:
    """Compare what was seen in one image with its truth: by masks where both have them, else by boxes.

    The surest detection takes the object it covers best, as in COCO's evaluation.
    """
    free = np.ones(len(truth), np.bool_)
    if len(truth) and len(detections):
        ious = pairwise_iou(detections, truth)
        same_class = detections.class_indices[:, None] == truth.class_indices[None, :]
        for row in np.where(same_class, ious, 0.0):
            best = int(np.argmax(row * free))
            if free[best] and row[best] >= 0.5:
                free[best] = False
    found = int((~free).sum())
    return Agreement(objects=len(truth), found=found, false=len(detections) - found)


def choose_samples(
    dataset: CocoDataset,
    before: Sequence[Detections],
    after: Sequence[Detections],
    *,
    iou_type: IouType,
    count: int = 6,
) -> list[int]:
    """Images that show fairly what tuning did, best to look at first; the same data gives the same choice.

    A typical one, the one with the most objects, the one that gained most and the one that is still worst; then those
    that show the most classes not yet seen, and of these the ones that gained most.
    """
    truths = [truth_of(dataset, i, iou_type=iou_type) for i in range(len(dataset))]
    scores = [
        tuple(agreement(truth, shown(seen[i], len(truth))).f1 for seen in (before, after))
        for i, truth in enumerate(truths)
    ]
    objects = np.asarray([len(truth) for truth in truths])
    gains = [after_f1 - before_f1 for before_f1, after_f1 in scores]
    left = [i for i in range(len(dataset)) if objects[i]] or list(range(len(dataset)))
    middle = float(np.median(objects[left])) if left else 0.0
    wanted = [
        lambda i: -abs(float(objects[i]) - middle),
        lambda i: float(objects[i]),
        lambda i: gains[i],
        lambda i: -scores[i][1],
    ]
    chosen: list[int] = []
    seen_classes: set[int] = set()
    while left and len(chosen) < count:
        if len(chosen) < len(wanted):
            best = max(left, key=wanted[len(chosen)])
        else:
            best = max(left, key=lambda i: (len(set(truths[i].class_indices.tolist()) - seen_classes), gains[i]))
        left.remove(best)
        chosen.append(best)
        seen_classes |= set(truths[best].class_indices.tolist())
    return chosen


def make_record(
    dataset: CocoDataset, index: int, before: Detections, after: Detections, *, iou_type: IouType
) -> SampleRecord:
    """The record of one image of ``dataset``, with no more of the detections than is shown."""
    image = dataset.images[index]
    truth = truth_of(dataset, index, iou_type=iou_type)
    return SampleRecord(
        index=index,
        file_name=image.file_name,
        width=image.width,
        height=image.height,
        classes=dataset.classes,
        truth=DetectionsRecord.of(truth),
        before=DetectionsRecord.of(shown(before, len(truth))),
        after=DetectionsRecord.of(shown(after, len(truth))),
    )

"""Example images of a report: selection, and their detections as plain JSON.

The trainer writes a list of :class:`SampleRecord` as ``samples.json`` and each record's image next to it, as
:attr:`SampleRecord.image_name`; the report reads both as :class:`SampleView`.
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

from engine.dataset.types import Detections, Rle
from engine.evaluation.ground_truth import GroundTruth
from engine.evaluation.matching import pairwise_iou
from engine.layout import SAMPLE_IMAGES, SAMPLES, sample_image
from engine.results.metrics import Result

MIN_SCORE = 0.3
"""Detections with at least this score are always drawn."""

WEAK_SCORE = 0.05
"""Detections below this score are never drawn."""


class DetectionsRecord(Result):
    """:class:`engine.dataset.types.Detections` of one image, in JSON."""

    boxes_xyxy: tuple[tuple[float, float, float, float], ...] = Field(description="Corners in pixels.")
    scores: tuple[float, ...]
    class_indices: tuple[int, ...]
    masks: tuple[str, ...] | None = Field(default=None, description="Counts of COCO's compressed run lengths.")
    prompt_indices: tuple[int, ...] | None = Field(default=None, description="The true object that prompted each.")

    @classmethod
    def of(cls, detections: Detections) -> DetectionsRecord:
        """Convert detections to a record, with boxes rounded to a hundredth of a pixel."""
        masks, prompts = detections.masks, detections.prompt_indices
        return cls(
            boxes_xyxy=tuple(tuple(round(float(v), 2) for v in box) for box in detections.boxes_xyxy),
            scores=tuple(round(float(score), 4) for score in detections.scores),
            class_indices=tuple(int(index) for index in detections.class_indices),
            masks=None if masks is None else tuple(rle["counts"].decode("ascii") for rle in masks),
            prompt_indices=None if prompts is None else tuple(int(index) for index in prompts),
        )

    def detections(self, *, width: int, height: int) -> Detections:
        """Convert the record to detections in an image of the given size."""
        masks, prompts = self.masks, self.prompt_indices
        return Detections(
            boxes_xyxy=np.asarray(self.boxes_xyxy, np.float32).reshape(-1, 4),
            scores=np.asarray(self.scores, np.float32),
            class_indices=np.asarray(self.class_indices, np.int64),
            masks=None if masks is None else [_rle(counts, width=width, height=height) for counts in masks],
            prompt_indices=None if prompts is None else np.asarray(prompts, np.int64),
        )


class SampleRecord(Result):
    """One image of the validation split: ground truth, and detections before and after tuning."""

    index: int = Field(ge=0, description="Index in the validation split.")
    file_name: str = Field(description="As in the dataset.")
    width: int = Field(ge=1, description="Width of the original image; boxes and masks are in its pixels.")
    height: int = Field(ge=1)
    classes: tuple[str, ...]
    truth: DetectionsRecord
    before: DetectionsRecord
    after: DetectionsRecord

    @property
    def image_name(self) -> str:
        """File name of the image's JPEG, which can be scaled down."""
        return sample_image(self.index)


@dataclass(frozen=True, eq=False)
class SampleView:
    """A record with its image.

    Attributes:
        image: (h, w, 3) uint8, RGB; same aspect ratio as the original, can be smaller.
        record: Ground truth and detections.
    """

    image: NDArray[np.uint8]
    record: SampleRecord


def read_samples(folder: Path) -> list[SampleView]:
    """Read the examples that the trainer wrote to a teacher's folder: ``samples.json`` and images in ``samples/``."""
    values = json.loads((folder / SAMPLES).read_text(encoding="utf-8"))
    views = []
    for record in map(SampleRecord.model_validate, values):
        with Image.open(folder / SAMPLE_IMAGES / record.image_name) as image:
            views.append(SampleView(np.asarray(image.convert("RGB")), record))
    return views


def _rle(counts: str, *, width: int, height: int) -> Rle:
    return {"size": [height, width], "counts": counts.encode("ascii")}


def select_drawn(detections: Detections, objects: int) -> Detections:
    """Select the detections to draw in an image with ``objects`` true objects.

    The ``objects`` highest scores are selected, so that base and adapted teacher get the same number of detections
    even if their scores differ in scale; also all with a score of :data:`MIN_SCORE` or more, so that false detections
    are not hidden. All detections of a teacher prompted by true boxes are selected.
    """
    if detections.prompt_indices is not None:
        return detections
    ranks = np.arange(len(detections))  # scores descend
    keep = (detections.scores >= MIN_SCORE) | ((ranks < objects) & (detections.scores >= WEAK_SCORE))
    return detections.select(np.flatnonzero(keep))


@dataclass(frozen=True)
class Agreement:
    """Agreement of the detections of one image with its ground truth.

    Attributes:
        objects: Number of true objects.
        found: Number of true objects matched with a detection of their class at an IoU of at least 0.5.
        false: Number of other detections.
    """

    objects: int
    found: int
    false: int

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1 without objects and detections."""
        total = self.objects + self.found + self.false
        return 2 * self.found / total if total else 1.0


def agreement(truth: Detections, detections: Detections) -> Agreement:
    """Compare the detections in one image with its ground truth: by masks if both have masks, else by boxes.

    Detections are matched by descending score, each with its best object, as in COCO's evaluation.
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
    truth: GroundTruth,
    before: Sequence[Detections],
    after: Sequence[Detections],
    *,
    count: int = 6,
    losses: bool = False,
) -> list[int]:
    """Choose images that represent the effect of tuning; deterministic.

    In this order: a typical image, the image with the most objects, the largest gain, and the lowest F1 after tuning;
    then images with the most classes not yet chosen, with the larger gain first. With ``losses``, the largest loss
    comes first of all: the objects that a student misses and its teacher finds.
    """
    scores = [
        tuple(agreement(objects, select_drawn(seen[i], len(objects))).f1 for seen in (before, after))
        for i, objects in enumerate(truth.objects)
    ]
    counts = np.asarray([len(objects) for objects in truth.objects])
    gains = [after_f1 - before_f1 for before_f1, after_f1 in scores]
    left = [i for i in range(len(truth)) if counts[i]] or list(range(len(truth)))
    middle = float(np.median(counts[left])) if left else 0.0
    wanted = [
        lambda i: -abs(float(counts[i]) - middle),
        lambda i: float(counts[i]),
        lambda i: gains[i],
        lambda i: -scores[i][1],
    ]
    if losses:
        wanted.insert(0, lambda i: -gains[i])
    chosen: list[int] = []
    seen_classes: set[int] = set()
    while left and len(chosen) < count:
        if len(chosen) < len(wanted):
            best = max(left, key=wanted[len(chosen)])
        else:
            best = max(left, key=lambda i: (len(set(truth.objects[i].class_indices.tolist()) - seen_classes), gains[i]))
        left.remove(best)
        chosen.append(best)
        seen_classes |= set(truth.objects[best].class_indices.tolist())
    return chosen


def make_record(truth: GroundTruth, index: int, before: Detections, after: Detections) -> SampleRecord:
    """Build the record of one image, with only the detections that are drawn."""
    image, objects = truth.dataset.images[index], truth.objects[index]
    return SampleRecord(
        index=index,
        file_name=image.file_name,
        width=image.width,
        height=image.height,
        classes=truth.dataset.classes,
        truth=DetectionsRecord.of(objects),
        before=DetectionsRecord.of(select_drawn(before, len(objects))),
        after=DetectionsRecord.of(select_drawn(after, len(objects))),
    )

"""Stand-ins for adapted teachers, whose answers follow from the pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask

from engine.dataset.types import Detections, Sample
from engine.models.labeller import Labeller


class Bright:
    """Finds the one bright rectangle of an image, of class 0 if it is higher than wide, else of class 1."""

    classes = ("tall", "wide")

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.batches: list[int] = []
        self.fail_at: int | None = None

    def predict(self, samples: Sequence[Sample]) -> list[Detections]:
        self.batches.append(len(samples))
        return [self._one(sample.image) for sample in samples]

    def _one(self, image: np.ndarray) -> Detections:
        if len(self.seen) == self.fail_at:
            raise KeyboardInterrupt
        self.seen.append(int(image[0, 0, 2]))  # images are numbered by their first pixel
        rows, columns = np.nonzero(image[..., 0] > 128)
        if not len(rows):
            return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        wide = box[2] - box[0] > box[3] - box[1]
        return Detections(np.asarray([box], np.float32), np.asarray([0.8], np.float32), np.asarray([int(wide)]))


class Halver:
    """Answers each box with its upper half as a mask, the last box first; a box of no height with nothing."""

    def predict(self, samples: Sequence[Sample]) -> list[Detections]:
        return [self._one(sample) for sample in samples]

    def _one(self, sample: Sample) -> Detections:
        masks, prompts = [], []
        for i in reversed(range(len(sample))):
            x1, y1, x2, y2 = (int(v) for v in sample.boxes_xyxy[i])
            mask = np.zeros(sample.image.shape[:2], np.uint8, order="F")
            mask[y1 : y1 + (y2 - y1) // 2, x1:x2] = 1
            if mask.any():
                masks.append(coco_mask.encode(mask))
                prompts.append(i)
        order = np.asarray(prompts, np.int64)
        return Detections(
            sample.boxes_xyxy[order],
            np.full(len(order), 0.5, np.float32),
            sample.class_indices[order],
            masks=masks,
            prompt_indices=order,
        )


def labeller(detector: Bright, *, masks: bool = False, **changes: object) -> Labeller:
    """A pipeline of the stand-ins."""
    return Labeller(detector=detector, segmenter=Halver() if masks else None, **changes)

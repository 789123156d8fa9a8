"""A teacher is given bounded batches, and its answers are put to the objects that they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from torch import Tensor

from engine.config import LoraSettings
from engine.dataset.types import CocoDataset, Detections, Sample
from engine.evaluation.evaluate import evaluate
from engine.models.base import Batch, Example, LoraTargets, Teacher
from engine.spec import TeacherName

from .conftest import HEIGHT, WIDTH, rectangle_rle


class BoxTeller(Teacher):
    """A teacher that answers with the boxes of the sample itself: predicting is all that evaluation asks of it."""

    name = TeacherName.GROUNDING_DINO
    iou_type = "bbox"
    needs_masks = False

    def __init__(self) -> None:
        self.batches: list[int] = []

    def predict(self, samples: Sequence[Sample]) -> list[Detections]:
        self.batches.append(len(samples))
        return [self.answer(sample) for sample in samples]

    def answer(self, sample: Sample) -> Detections:
        return Detections(sample.boxes_xyxy, np.ones(len(sample), np.float32), sample.class_indices)

    @classmethod
    def load(cls, folder: Path, *, classes: Sequence[str], prompts: Mapping[str, str], settings: Any) -> Self:
        raise NotImplementedError

    def lora_targets(self, lora: LoraSettings) -> LoraTargets:
        raise NotImplementedError

    def example(self, sample: Sample, rng: np.random.Generator) -> Example:
        raise NotImplementedError

    def collate(self, examples: Sequence[Example]) -> Batch:
        raise NotImplementedError

    def count(self, batch: Batch) -> float:
        raise NotImplementedError

    def loss(self, batch: Batch, *, count: float) -> dict[str, Tensor]:
        raise NotImplementedError


class HalfMasker(BoxTeller):
    """Answers each box with its left half as a mask, the last box first."""

    name = TeacherName.SAM
    iou_type = "segm"

    def answer(self, sample: Sample) -> Detections:
        order = np.arange(len(sample))[::-1]
        halves = [(x1, y1, (x1 + x2) / 2, y2) for x1, y1, x2, y2 in sample.boxes_xyxy[order].tolist()]
        return Detections(
            sample.boxes_xyxy[order],
            np.ones(len(sample), np.float32),
            sample.class_indices[order],
            masks=[rectangle_rle(*half) for half in halves],
            prompt_indices=order,
        )


def loader(dataset: CocoDataset) -> Any:
    def load(index: int) -> Sample:
        objects = dataset.annotations[index]
        boxes = np.asarray([o.box_xyxy for o in objects], np.float32).reshape(-1, 4)
        return Sample.of(np.zeros((HEIGHT, WIDTH, 3), np.uint8), boxes, [o.class_index for o in objects])

    return load


def test_images_come_in_batches_and_progress_is_reported(dataset: CocoDataset) -> None:
    teacher, progress = BoxTeller(), []
    result = evaluate(
        teacher, dataset, loader(dataset), batch_size=2, on_progress=lambda done, total: progress.append((done, total))
    )
    assert teacher.batches == [2, 2, 1]
    assert progress == [(2, 5), (4, 5), (5, 5)]
    assert [len(seen) for seen in result.detections] == [2, 0, 5, 1, 3]
    assert result.metrics.ap == pytest.approx(1)
    assert result.metrics.miou is None


def test_masks_are_compared_with_the_objects_whose_boxes_prompted_them(dataset: CocoDataset) -> None:
    result = evaluate(HalfMasker(), dataset, loader(dataset), batch_size=3)
    assert result.metrics.miou == pytest.approx(0.5)
    assert 0 < result.metrics.ap < 0.2  # an IoU of a half passes the lowest threshold only


def test_objects_without_a_mask_prompt_nothing_and_are_not_missed(dataset: CocoDataset) -> None:
    first, *others = dataset.annotations
    bare = replace(dataset, annotations=((replace(first[0], segmentation=None), first[1]), *others))
    result = evaluate(HalfMasker(), bare, loader(bare), batch_size=8)
    assert result.detections[0].prompt_indices.tolist() == [1]
    assert result.metrics.miou == pytest.approx(0.5)


def test_sizes_that_the_file_did_not_say_are_those_of_the_images(dataset: CocoDataset) -> None:
    unsized = replace(dataset, images=tuple(replace(image, width=0, height=0) for image in dataset.images))
    result = evaluate(HalfMasker(), unsized, loader(unsized), batch_size=2)
    assert {(image.width, image.height) for image in result.truth.dataset.images} == {(WIDTH, HEIGHT)}
    assert result.metrics.miou == pytest.approx(0.5)


def test_a_dataset_without_images_has_no_numbers() -> None:
    nothing = CocoDataset((), (), ("bolt",), (1,))
    result = evaluate(HalfMasker(), nothing, loader(nothing), batch_size=2)
    assert (result.metrics.ap, result.metrics.miou, result.detections) == (-1, -1, [])

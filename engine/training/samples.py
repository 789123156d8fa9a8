"""What the report shows of the validation part: ``samples.json``, and the images in ``samples/``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from engine.artifacts import SAMPLES
from engine.dataset.types import CocoDataset, Detections, Sample
from engine.evaluation.ground_truth import IouType
from engine.evaluation.samples import choose_samples, make_record

LONGEST_SIDE = 800
"""Of the images kept, in pixels: enough to look at, little enough for one page to hold."""


def write_samples(
    folder: Path,
    dataset: CocoDataset,
    load: Callable[[int], Sample],
    *,
    before: Sequence[Detections],
    after: Sequence[Detections],
    iou_type: IouType,
) -> None:
    """Choose images and keep them with their truth and what was seen in them.

    Args:
        folder: Of the teacher.
        dataset: The validation part.
        load: Gives the sample of an image.
        before: What the base saw in each image.
        after: What the adapted teacher saw.
        iou_type: Whether boxes or masks are compared.
    """
    images = folder / Path(SAMPLES).stem
    images.mkdir(parents=True, exist_ok=True)
    records = [
        make_record(dataset, index, before[index], after[index], iou_type=iou_type)
        for index in choose_samples(dataset, before, after, iou_type=iou_type)
    ]
    for record in records:
        image = Image.fromarray(load(record.index).image)
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        image.save(images / record.image_name, quality=85)
    values = [record.model_dump(mode="json") for record in records]
    (folder / SAMPLES).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

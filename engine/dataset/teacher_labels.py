"""Labels of teachers as a dataset to train on: objects with scores, and unsure ones that are ignored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from engine.dataset.predictions import Predictions
from engine.dataset.types import CocoAnnotation, CocoDataset, CocoImage
from engine.errors import DataError
from engine.text.safe_text import listed

CERTAIN = 0.9
"""Share of the sure objects of a class whose scores are below the one that counts as certain."""

HIGHEST = float(np.nextafter(np.float32(1), np.float32(0)))
"""Highest score of a teacher's object: 1 marks human labels, whose masks are learned whole."""


def teacher_labels(
    found: Predictions, classes: Sequence[str], *, min_score: float, soft: bool, where: str
) -> CocoDataset:
    """Return the labels as objects with scores.

    Objects that the labels mark as unsure, or whose score is below ``min_score``, are ignored in training, and so are
    crowds. An object without a mask has none here, whatever others have. An image without objects is an example of
    background.

    With soft scores, that of an object is divided by the 90th percentile of the sure ones of its class. A teacher's
    scores are not probabilities: those of a tuned Grounding DINO are about 0.2 where its boxes are right, and as they
    are they would teach a student to doubt what human labels teach it to be sure of.

    Args:
        found: Labels by file name.
        classes: Class names in the order of class indices; objects of others are left out.
        min_score: Lowest score of an object to learn.
        soft: Objects keep a score to learn; otherwise it is :data:`HIGHEST`, in effect that of human labels.
        where: Name of the file in messages.

    Raises:
        DataError: No class is among ``classes``, or a score is not in 0..1.
    """
    index = {name: number for number, name in enumerate(classes)}
    known = [index.get(name, -1) for name in found.classes]
    if all(number < 0 for number in known):
        raise DataError(
            f"{where} has labels of {listed(found.classes)}, and none of the classes of the dataset, "
            f"{listed(classes)}: give labels of a teacher that was tuned on this dataset"
        )
    for name, objects in found.seen.items():
        _check_scores(objects.scores, name, where)
    sure_of = {name: ~found.unsure[name] & (objects.scores >= min_score) for name, objects in found.seen.items()}
    high = _high_scores(found, sure_of) if soft else None
    images, annotations = [], []
    for number, (name, objects) in enumerate(found.seen.items()):
        width, height = found.sizes[name]
        images.append(CocoImage(number, name, width, height))
        annotations.append(
            tuple(
                CocoAnnotation(
                    id=position,
                    class_index=known[label],
                    box_xyxy=(box[0], box[1], box[2], box[3]),
                    area=(box[2] - box[0]) * (box[3] - box[1]),
                    iscrowd=crowd,
                    segmentation=None if unmasked else mask,
                    score=HIGHEST if high is None else min(score / high[label], HIGHEST),
                    ignored=not kept,
                )
                for position, (box, label, score, kept, crowd, mask, unmasked) in enumerate(
                    zip(
                        _clipped(objects.boxes_xyxy, width, height).tolist(),
                        objects.class_indices.tolist(),
                        objects.scores.tolist(),
                        sure_of[name].tolist(),
                        found.crowds[name].tolist(),
                        objects.masks or (None,) * len(objects),
                        found.unmasked[name].tolist(),
                        strict=True,
                    )
                )
                if known[label] >= 0 and box[2] > box[0] and box[3] > box[1]
            )
        )
    ids = tuple(range(1, len(classes) + 1))
    return CocoDataset(tuple(images), tuple(annotations), tuple(classes), ids)


def _high_scores(found: Predictions, sure_of: Mapping[str, NDArray[np.bool_]]) -> NDArray[np.float64]:
    """Return the score of each class (C,) that is as good as certain; 1 of a class without sure objects."""
    result = np.ones(len(found.classes))
    if not found.seen:
        return result
    labels = np.concatenate([objects.class_indices[sure_of[name]] for name, objects in found.seen.items()])
    scores = np.concatenate([objects.scores[sure_of[name]] for name, objects in found.seen.items()])
    for label in range(len(result)):
        if (labels == label).any():
            result[label] = max(float(np.quantile(scores[labels == label], CERTAIN)), 1e-6)
    return result


def _check_scores(scores: NDArray[np.float32], name: str, where: str) -> None:
    wrong = scores[(scores < 0) | (scores > 1)]
    if len(wrong):
        raise DataError(
            f"an object of {name} in {where} has the score {wrong[0]:g}: scores are from 0 to 1; divide "
            "percentages by 100"
        )


def _clipped(boxes: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """Return corners inside the image, if its size is known."""
    limits = np.array([width, height, width, height], np.float32)
    return np.clip(boxes, 0, limits if width and height else None)

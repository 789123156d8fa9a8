"""Augment a sample, with its boxes and masks."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.augmentation.label_maps import Layers
from engine.augmentation.pipeline import Pipeline
from engine.augmentation.selection import select
from engine.dataset.types import Sample
from engine.spec import AugmentationSpec

MIN_SIDE = 32
"""Images with a side of fewer pixels stay as they are: transforms that cut or bend them divide by zero."""


class Augmenter:
    """Augmented views of samples: ``augmenter(sample, seed)``.

    The view is fully determined by the sample and the seed. Objects of which too little stays in view are dropped
    (:data:`engine.augmentation.custom_transforms.MIN_VISIBLE`), so that a view may have none. With masks, boxes are
    computed from them after transforms that do not keep boxes upright; otherwise the given boxes are transformed.

    Pickles as its specification; each process builds its own transforms. Not thread-safe.
    """

    def __init__(self, spec: AugmentationSpec) -> None:
        self.spec = spec
        self.chosen = select(spec)

    def __reduce__(self) -> tuple[Any, ...]:
        return Augmenter, (self.spec,)

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """Return a view of ``sample``; the sample itself if no transform was chosen, or the image is too small.

        Raises:
            ConfigError: albumentations is not installed.
        """
        if not self.chosen or min(sample.image.shape[:2]) < MIN_SIDE:
            return sample
        pipeline = self._without_masks if sample.masks is None else self._with_masks
        pipeline.seed(seed)
        layers = None if sample.masks is None else Layers.of(sample.masks)
        moved = pipeline.move(sample.image, sample.boxes_xyxy, None if layers is None else layers.maps)
        boxes, kept, masks = moved.boxes_xyxy, moved.indices, None
        if layers is not None and moved.maps is not None:
            seen = layers.boxes(moved.maps)
            # An object whose mask has left the frame is dropped; one without a mask is kept or dropped by its box.
            stays = (seen[kept, 2] > 0) | (layers.layer_of[kept] < 0)
            boxes, kept = boxes[stays], kept[stays]
            masks = layers.masks(moved.maps, kept, seen)
            if moved.loose:
                tight = np.where(layers.layer_of[kept, None] < 0, boxes, seen[kept]).astype(np.float32)
                boxes = _with_objects(boxes, tight, sample.annotation_indices[kept])
        return Sample(
            image=pipeline.repaint(moved.image),
            boxes_xyxy=boxes,
            class_indices=sample.class_indices[kept],
            is_crowd=sample.is_crowd[kept],
            annotation_indices=sample.annotation_indices[kept],
            masks=masks,
            scores=None if sample.scores is None else sample.scores[kept],
            is_ignored=None if sample.is_ignored is None else sample.is_ignored[kept],
        )

    @cached_property
    def _with_masks(self) -> Pipeline:
        return Pipeline(self.chosen)

    @cached_property
    def _without_masks(self) -> Pipeline:
        return Pipeline([chosen for chosen in self.chosen if not chosen.needs_masks])


def _with_objects(
    loose: NDArray[np.float32], tight: NDArray[np.float32], indices: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return tight boxes; a detected box of an object (index -1 - the object's) shrinks like the object's own box.

    Args:
        loose: (N, 4) xyxy after the transforms.
        tight: (N, 4) xyxy; for objects with a mask, computed from it.
        indices: (N,) annotation indices; negative for detected boxes.
    """
    boxes, row_of = tight.copy(), {int(index): row for row, index in enumerate(indices)}
    for row in np.flatnonzero(indices < 0):
        own = row_of.get(-1 - int(indices[row]))
        if own is not None:
            (low, high), (new_low, new_high) = loose[own].reshape(2, 2), tight[own].reshape(2, 2)
            scale = (new_high - new_low) / np.maximum(high - low, 1e-6)
            boxes[row] = (new_low + (loose[row].reshape(2, 2) - low) * scale).ravel()
    return boxes

"""Changes a sample as its dataset may look in use; boxes and masks follow."""

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
    read off them wherever a transform does not keep boxes upright; elsewhere they are moved as they were given.

    Pickles as its specification; each process builds its own transforms. Not to be shared by threads.
    """

    def __init__(self, spec: AugmentationSpec) -> None:
        self.spec = spec
        self.chosen = select(spec)

    def __reduce__(self) -> tuple[Any, ...]:
        return Augmenter, (self.spec,)

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """A view of ``sample``; the sample itself if nothing was chosen, or there is hardly anything to see in it.

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
            # An object whose mask has left the frame is gone; one that never had a mask is judged by its box.
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
    """Tight boxes; those beside an object (index -1 - its own), which no mask tightens, shrink with the object's.

    Args:
        loose: (N, 4) corners, as a transform leaves them.
        tight: (N, 4) corners, of objects with a mask as their masks say.
        indices: (N,) of the objects, or below 0 of what is beside them.
    """
    boxes, place = tight.copy(), {int(index): row for row, index in enumerate(indices)}
    for row in np.flatnonzero(indices < 0):
        beside = place.get(-1 - int(indices[row]))
        if beside is not None:
            (low, high), (new_low, new_high) = loose[beside].reshape(2, 2), tight[beside].reshape(2, 2)
            scale = (new_high - new_low) / np.maximum(high - low, 1e-6)
            boxes[row] = (new_low + (loose[row].reshape(2, 2) - low) * scale).ravel()
    return boxes

"""Changes a sample as its dataset may look in use; boxes and masks follow."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from engine.augmentation.layers import Layers
from engine.augmentation.selection import select
from engine.augmentation.transforms import Pipeline
from engine.dataset.types import Sample
from engine.spec import AugmentationSpec

MIN_SIDE = 32
"""Images with a side of fewer pixels stay as they are: transforms that cut or bend them divide by zero."""


class Augmenter:
    """Augmented views of samples: ``augmenter(sample, seed)``.

    The view is fully determined by the sample and the seed. Objects of which too little stays in view are dropped
    (:data:`engine.augmentation.own.MIN_VISIBLE`), so that a view may have none. With masks, boxes are read off
    them wherever a transform does not keep boxes upright; elsewhere they are moved as they were given.

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
                boxes = np.where(layers.layer_of[kept, None] < 0, boxes, seen[kept]).astype(np.float32)
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

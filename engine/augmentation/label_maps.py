"""Store many masks in few label maps, so that 300 objects are warped as fast as one.

A layer is one label map: 0 for background, ``i + 1`` for object ``i``. Overlapping masks go to different layers, so
none loses a pixel; objects that do not overlap, as in most data, share one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import DataError


@dataclass(frozen=True, eq=False)
class Layers:
    """Masks of a sample.

    Attributes:
        maps: (L, H, W) uint16.
        layer_of: (N,) layer of each object; -1 for an empty mask.
    """

    maps: NDArray[np.uint16]
    layer_of: NDArray[np.intp]

    @classmethod
    def of(cls, masks: NDArray[np.bool_]) -> Layers:
        """Put (N, H, W) masks into layers: each into the first where it overlaps no other (greedy colouring)."""
        if len(masks) > np.iinfo(np.uint16).max:
            raise DataError(f"an image has {len(masks)} objects, more than the 65,535 that can be; cut it into tiles")
        maps: list[NDArray[np.uint16]] = []
        layer_of = np.full(len(masks), -1)
        for index, mask in enumerate(masks):
            rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
            if not len(rows):
                continue
            window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
            inside = mask[window]
            free = (layer for layer, numbers in enumerate(maps) if not numbers[window][inside].any())
            layer = next(free, len(maps))
            if layer == len(maps):
                maps.append(np.zeros(masks.shape[1:], dtype=np.uint16))
            maps[layer][window][inside] = index + 1
            layer_of[index] = layer
        return cls(np.array(maps, dtype=np.uint16).reshape(len(maps), *masks.shape[1:]), layer_of)

    def boxes(self, maps: NDArray[np.uint16]) -> NDArray[np.int64]:
        """Return the bounding box of each object in ``maps``, these layers after geometric transforms.

        Returns:
            (N, 4) xyxy in whole pixels; all zero for an absent object.
        """
        from scipy import ndimage

        boxes = np.zeros((len(self.layer_of), 4), dtype=np.int64)
        for numbers in maps:
            for index, window in enumerate(ndimage.find_objects(numbers)):
                if window is not None:
                    rows, columns = window
                    boxes[index] = columns.start, rows.start, columns.stop, rows.stop
        return boxes

    def masks(
        self, maps: NDArray[np.uint16], indices: NDArray[np.int64], boxes: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Return (M, H', W') masks of the objects ``indices`` in ``maps``; ``boxes`` is the result of :meth:`boxes`."""
        masks = np.zeros((len(indices), *maps.shape[1:]), dtype=np.bool_)
        for mask, index in zip(masks, indices, strict=True):
            if self.layer_of[index] < 0:
                continue
            left, top, right, bottom = boxes[index]
            window = slice(top, bottom), slice(left, right)
            mask[window] = maps[self.layer_of[index]][window] == index + 1
        return masks

"""Detect annotations with ``iscrowd: 1`` that are single objects, marked only because their masks are run lengths."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from engine.dataset.checks.mask_geometry import run_lengths
from engine.dataset.id_index import Distinct

FEW = 3
"""Minimum number of crowds for a conclusion."""

SHARE = 0.02
"""Fraction of annotations that real crowds never reach in a dataset: in COCO it is 0.012."""

DRAWN, KEPT = 1000, 10_000
"""Maximum number of crowds to decode, and of areas to keep, per file."""

RUNS = 1.3
"""Maximum mean number of runs per column in a single region."""


@dataclass
class CrowdStatistics:
    """Statistics over a file."""

    crowds: int = 0
    objects: int = 0
    drawn: int = 0
    single: int = 0
    pairs: Distinct = field(default_factory=Distinct)
    crowd_areas: list[float] = field(default_factory=list)
    object_areas: list[float] = field(default_factory=list)

    def add(
        self,
        crowds: NDArray[np.bool_],
        areas: NDArray[np.float64],
        pairs: NDArray[np.int64],
        *,
        masks: list[msgspec.Raw | None],
    ) -> None:
        """Count N usable annotations.

        Args:
            crowds: (N,) True if marked as a crowd.
            areas: (N,) in square pixels.
            pairs: (N,) number of the (image, class) pair.
            masks: Run lengths of the crowds only; None for those with other masks or without one.
        """
        self.crowds += int(crowds.sum())
        self.objects += len(crowds)
        self.object_areas += areas[~crowds][: KEPT - len(self.object_areas)].tolist()
        if not crowds.any():
            return
        self.crowd_areas += areas[crowds][: KEPT - len(self.crowd_areas)].tolist()
        self.pairs.add(pairs[crowds])
        for mask in masks[: DRAWN - self.drawn]:
            self.drawn += 1
            self.single += mask is None or _is_one_region(mask)

    @property
    def are_objects(self) -> bool:
        """Test whether crowds look like single objects: many, small, each of one region; or there are only crowds."""
        if self.crowds < FEW:
            return False
        if self.crowds == self.objects:
            return True
        several = self.crowds - len(self.pairs.numbers()) >= 0.2 * self.crowds
        small = float(np.median(self.crowd_areas)) <= 2 * float(np.median(self.object_areas))
        return small and self.single >= 0.5 * self.drawn and (several or self.crowds >= SHARE * self.objects)


def _is_one_region(mask: msgspec.Raw) -> bool:
    drawn = coco_mask.decode(run_lengths(mask))
    columns = drawn[:, drawn.any(axis=0)]
    if not columns.size:
        return False
    runs = int(columns[0].sum()) + int(((columns[1:] == 1) & (columns[:-1] == 0)).sum())
    return bool(runs <= RUNS * columns.shape[1])

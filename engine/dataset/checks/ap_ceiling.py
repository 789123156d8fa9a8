"""Upper limit of AP for images with more objects than AP counts detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.dataset.checks.problems import EXAMPLES

AP_DETECTIONS = 100
"""Detections of each image and class that COCO's AP counts (``maxDets`` of pycocotools' COCOeval)."""

RECALL_POINTS = 101
"""Number of recall levels (0, 0.01, ... 1); AP is the mean precision over them."""


@dataclass
class Ceilings:
    """Count the objects of each class, and how many of them AP can count as found.

    Attributes:
        full: Number of (image, class) pairs with more objects than AP counts.
    """

    full: int = 0
    fullest: list[str] = field(default_factory=list)
    objects: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def add(
        self,
        pairs: NDArray[np.int64],
        counts: NDArray[np.int32],
        *,
        image_names: Sequence[str],
        class_names: Sequence[str],
    ) -> None:
        """Count the objects of a file.

        Args:
            pairs: (N,) unique numbers: index of the image << 24 | index of the class.
            counts: (N,) objects of each pair, without crowds.
            image_names: Names of all images.
            class_names: Names of all classes.
        """
        classes = pairs & 0xFFFFFF
        there = np.bincount(classes, counts, minlength=len(class_names))
        found = np.bincount(classes, np.minimum(counts, AP_DETECTIONS), minlength=len(class_names))
        for index, name in enumerate(class_names):
            self.objects[name] = self.objects.get(name, np.zeros(2)) + np.array([there[index], found[index]])
        full = np.flatnonzero(counts > AP_DETECTIONS)
        self.full += len(full)
        for k in full[:EXAMPLES]:
            name = image_names[int(pairs[k] >> 24)]
            self.fullest.append(f"{name} has {counts[k]} of {class_names[int(classes[k])]}")

    @property
    def highest_ap(self) -> float:
        """AP of a perfect detector: every object is found except those beyond the limit."""
        recalls = [found / there for there, found in self.objects.values() if there]
        reached = [(int(recall * (RECALL_POINTS - 1) + 1e-9) + 1) / RECALL_POINTS for recall in recalls]
        return float(np.mean(reached)) if reached else 1.0

    def examples(self) -> list[str]:
        """Return the upper limit of AP, then the first images with too many objects."""
        return [f"AP can be at most {self.highest_ap:.3f}", *self.fullest]

"""Batches of scenes for training: drawn in a second process, each used several times, in stages of growing size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from scenes import Object, draw_scene
from torch.utils.data import DataLoader, Dataset

BATCH_SIZE = 6
USES = 4
"""Drawing takes long, so each batch is used as drawn, mirrored, upside down and both."""

Scene = tuple[np.ndarray, list[Object]]


@dataclass(frozen=True)
class Stage:
    """Training stage.

    Attributes:
        edge: Shortest edge in pixels.
        steps: Number of steps.
        smallest: Smallest objects, as a share of the edge.
        smallest_dense: Smallest typical objects of dense scenes, as a share of the edge.
        plain: Few objects with clear colours, and mostly prompts for any object: localization is learned first.
    """

    edge: int
    steps: int
    smallest: float
    smallest_dense: float = 0.0
    plain: bool = False


STAGES = (
    Stage(128, 900, 0.15, plain=True),
    Stage(128, 1800, 0.12, 0.14),
    Stage(192, 1100, 0.08, 0.1),
    Stage(256, 1100, 0.05),
)
"""Small images come first: a step takes a quarter of the time. The last size is the size used for inference."""
STEPS = sum(stage.steps for stage in STAGES)


def stage_at(progress: float) -> Stage:
    """Return the stage after a share of the steps."""
    done = 0
    for stage in STAGES:
        done += stage.steps
        if progress * STEPS < done:
            return stage
    return STAGES[-1]


class Drawings(Dataset[list[Scene]]):
    """Batches of scenes, each drawn from its own random generator; every one is used :data:`USES` times."""

    def __init__(self, steps: int, seed: int, clock: Any) -> None:
        self.steps = steps
        self.seed = seed
        self.clock = clock

    def __len__(self) -> int:
        return -(-self.steps // USES)

    def __getitem__(self, index: int) -> list[Scene]:
        cv2.setNumThreads(1)
        rng = np.random.default_rng((self.seed, 0, index))
        stage = stage_at(max(USES * index / self.steps, self.clock.value))
        size = (stage.edge, stage.edge * int(rng.choice([4, 5])) // 4)
        colored = stage.plain or bool(rng.random() < 0.4)  # words for colours need scenes in colour
        options = {
            "colored": colored,
            "dense": False if stage.plain else None,
            "smallest": stage.smallest,
            "most": 8 if stage.plain else 15,
            "smallest_dense": stage.smallest_dense,
        }
        return [draw_scene(rng, size, **options) for _ in range(BATCH_SIZE)]


def batches(steps: int, seed: int, clock: Any, delay: int = 6) -> Iterator[list[Scene]]:
    """Yield a batch for each step; the mirrored ones come some steps after the original."""
    waiting: list[tuple[int, list[Scene]]] = []
    drawings = Drawings(steps, seed, clock)
    for scenes in DataLoader(drawings, batch_size=None, num_workers=1, prefetch_factor=6, collate_fn=list):
        yield scenes
        waiting += [(way, scenes) for way in range(1, USES)]
        while len(waiting) > delay * (USES - 1):
            way, earlier = waiting.pop(0)
            yield mirrored(earlier, way)
    for way, earlier in waiting:
        yield mirrored(earlier, way)


def mirrored(scenes: list[Scene], way: int) -> list[Scene]:
    """Mirror scenes: 1 left to right, 2 top to bottom, 3 both."""
    flips = (slice(None, None, -1 if way & 2 else 1), slice(None, None, -1 if way & 1 else 1))
    result = []
    for image, things in scenes:
        height, width = image.shape[:2]
        turned = []
        for o in things:
            left, top, right, bottom = o.box_xyxy
            left, right = (width - right, width - left) if way & 1 else (left, right)
            top, bottom = (height - bottom, height - top) if way & 2 else (top, bottom)
            turned.append(Object(o.name, o.color, (left, top, right, bottom), o.mask[flips]))
        result.append((np.ascontiguousarray(image[flips]), turned))
    return result

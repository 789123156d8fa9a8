"""Batches of scenes for training: drawn in a second process, each used several times, in stages of growing size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from scenes import Object, draw_scene
from torch.utils.data import DataLoader, Dataset

BATCH_SIZE = 8
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
        plain: Few objects with clear colours.
    """

    edge: int
    steps: int
    smallest: float
    smallest_dense: float = 0.0
    plain: bool = False


@dataclass(frozen=True)
class Plan:
    """Stages of one training, small images first: their steps take a quarter of the time."""

    stages: tuple[Stage, ...]

    @property
    def steps(self) -> int:
        """Number of steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, progress: float) -> Stage:
        """Return the stage after a share of the steps."""
        done = 0
        for stage in self.stages:
            done += stage.steps
            if progress * self.steps < done:
                return stage
        return self.stages[-1]

    def of(self, share: float) -> Plan:
        """Return the plan with a share of the steps of each stage."""
        return Plan(tuple(replace(stage, steps=max(1, round(stage.steps * share))) for stage in self.stages))


BACKBONE_PLAN = Plan((Stage(128, 9474, 0.15, plain=True), Stage(128, 2105, 0.12, 0.14)))
DETECTOR_PLAN = Plan(
    (
        Stage(128, 2947, 0.15, plain=True),
        Stage(128, 1684, 0.12, 0.14),
        Stage(192, 1895, 0.08, 0.1),
        Stage(256, 1474, 0.05),
    )
)
"""The last size is the size used for inference."""


class Drawings(Dataset[list[Scene]]):
    """Batches of scenes, each drawn from its own random generator; every one is used :data:`USES` times."""

    def __init__(self, plan: Plan, seed: int, clock: Any) -> None:
        self.plan = plan
        self.seed = seed
        self.clock = clock

    def __len__(self) -> int:
        return -(-self.plan.steps // USES)

    def __getitem__(self, index: int) -> list[Scene]:
        cv2.setNumThreads(1)
        rng = np.random.default_rng((self.seed, 0, index))
        stage = self.plan.stage_at(max(USES * index / self.plan.steps, self.clock.value))
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


def batches(plan: Plan, seed: int, clock: Any, delay: int = 6) -> Iterator[list[Scene]]:
    """Yield a batch for each step; the mirrored ones come some steps after the original.

    Args:
        plan: Stages of the training.
        seed: Random seed.
        clock: Shared number, the share of the time limit that has passed: stages end early on a busy machine.
        delay: Number of batches between the mirrored forms of one.
    """
    waiting: list[tuple[int, list[Scene]]] = []
    drawings = Drawings(plan, seed, clock)
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

"""Random boxes and objects, for the objectives of students."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.students.targets import Targets

CLASSES = 3


def boxes(*shape: int, generator: torch.Generator) -> Tensor:
    """Boxes inside the image, as centers and sizes."""
    size = 0.1 + 0.3 * torch.rand(*shape, 2, generator=generator)
    return torch.cat([size / 2 + (1 - size) * torch.rand(*shape, 2, generator=generator), size], dim=-1)


def targets(objects: int, generator: torch.Generator, *, ignored: int = 0, score: float = 1.0) -> Targets:
    return Targets(
        labels=torch.randint(CLASSES, (objects,), generator=generator),
        boxes=boxes(objects, generator=generator),
        scores=torch.full((objects,), score),
        ignored_labels=torch.randint(CLASSES, (ignored,), generator=generator),
        ignored_boxes=boxes(ignored, generator=generator),
        ignored_crowds=torch.ones(ignored, dtype=torch.bool),
    )

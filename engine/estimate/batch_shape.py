"""Largest shape of the inputs of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from engine.config import TeacherSettings
from engine.dataset.images.preprocessing import ShortestEdgeTransform
from engine.dataset.types import DatasetInfo
from engine.estimate.cost_traits import count_positions


@dataclass(frozen=True)
class BatchShape:
    """Largest shape of the inputs of a run.

    Attributes:
        positions: Positions of all feature maps of one image.
        padded_positions: The same for an image in a batch, where each is padded to the largest.
        tokens: Tokens of a caption.
        objects: Prompts per image.
        images: Number of images.
    """

    positions: int
    padded_positions: int
    tokens: int
    objects: int
    images: int = 1_000_000


def inspected_shape(
    info: DatasetInfo, settings: TeacherSettings, transform: ShortestEdgeTransform | None = None
) -> BatchShape:
    """Return the largest input shape by the inspection's median and largest image size."""
    images = info.image_sizes
    sizes = [] if images is None else [images.median_size, images.largest_size]
    names = [one.name for one in info.classes if one.annotations]
    # A word of a vocabulary has about six letters; two tokens begin and end the caption, one ends each phrase.
    tokens = 2 + sum(1 + sum(math.ceil(len(word) / 6) for word in name.split() or [name]) for name in names)
    return batch_shape(
        [(height, width) for width, height in sizes],
        tokens=tokens,
        objects=1 if images is None else images.objects_max,
        images=info.images,
        settings=settings,
        transform=transform,
    )


def batch_shape(
    sizes: Iterable[tuple[int, int]],
    *,
    tokens: int,
    objects: int,
    images: int,
    settings: TeacherSettings,
    transform: ShortestEdgeTransform | None = None,
) -> BatchShape:
    """Return the largest input shape of images of these sizes.

    Args:
        sizes: Heights and widths in pixels; those that are not known are 0.
        tokens: Of the longest caption.
        objects: Of the image that has most.
        images: How many there are.
        settings: Of the teacher.
        transform: Resizes its images; default: as published.
    """
    transform = transform or ShortestEdgeTransform()
    known = {size for size in sizes if min(size) > 0}
    resized = [transform.plan(*size).resized for size in known] or [(transform.shortest_edge, transform.longest_edge)]
    return BatchShape(
        positions=max(count_positions(*size) for size in resized),
        padded_positions=count_positions(max(height for height, _ in resized), max(width for _, width in resized)),
        tokens=min(tokens, 256),
        objects=max(1, settings.prompts_per_image(objects)),
        images=images,
    )

"""Defaults that follow from the data, each with its reason. Pure.

A user who sets nothing gets these; whatever is set in the manifest or by a flag wins.
"""

from __future__ import annotations

import math

from engine.dataset.types import DatasetInfo
from engine.spec import AugmentationSpec, Characteristic, Intensity

STEPS = 2000
"""Optimizer steps that a small or middling dataset is worth: LoRA has converged by then (published runs stop
between 500 and 3,000), and more on few images is learning them by heart."""

FEWEST_EPOCHS, MOST_EPOCHS = 8, 40
"""A large dataset is seen a few times even if that takes more steps; a tiny one is not repeated for ever."""

SMALL_SIDE = 0.06
"""Objects whose median side is under this share of the image's lose detail in any downscaling."""

DENSE_OBJECTS = 20
"""From this many objects an image on, neighbours touch, and hiding some of them confuses more than it teaches."""

ELONGATED_RATIO = 3.0
"""From this median side ratio on, rotating an axis-aligned box makes it mostly background."""

FEW_IMAGES = 50
"""Below this, variety must come from augmentation."""


def epochs(images: int, *, step_images: int) -> int:
    """Passes over ``images`` training images when a step takes ``step_images`` of them.

    >>> epochs(20, step_images=4), epochs(300, step_images=4), epochs(20_000, step_images=4)
    (40, 27, 8)
    """
    steps_an_epoch = math.ceil(images / step_images)
    return min(MOST_EPOCHS, max(FEWEST_EPOCHS, math.ceil(STEPS / steps_an_epoch)))


def augmentation(asked: AugmentationSpec, info: DatasetInfo) -> AugmentationSpec:
    """What was asked for, with the characteristics that the boxes show, and an intensity."""
    shown: list[Characteristic] = []
    if info.sizes is not None and info.sizes.relative_side[1] < SMALL_SIDE:
        shown.append(Characteristic.SMALL_OBJECTS)
    if info.sizes is not None and info.sizes.elongation > ELONGATED_RATIO:
        shown.append(Characteristic.ELONGATED)
    if info.image_sizes is not None and info.image_sizes.objects_mean > DENSE_OBJECTS:
        shown.append(Characteristic.DENSE)
    few = info.images < FEW_IMAGES
    return asked.model_copy(
        update={
            "characteristics": list(dict.fromkeys([*asked.characteristics, *shown])),
            "intensity": asked.intensity or (Intensity.HIGH if few else Intensity.MEDIUM),
        }
    )

"""Defaults that follow from the data, each with its reason. Pure.

A user who sets nothing gets these; whatever is set in the manifest or by a flag wins.
"""

from __future__ import annotations

import math

from engine.dataset.types import DatasetInfo
from engine.spec import AugmentationSpec, Characteristic, Intensity, LoraPreset

STEPS = 2000
"""Optimizer steps that a small or middling dataset is worth: LoRA has converged by then (published runs stop
between 500 and 3,000), and more on few images is learning them by heart."""

FEWEST_EPOCHS, MOST_EPOCHS, FEWEST_STEPS = 8, 40, 300
"""A large dataset is seen a few times even if that takes more steps; a tiny one is not repeated for ever, but as often
as it takes to learn anything. Early stopping ends what does not get better."""

STEP_IMAGES = ((10_000, 16), (2_000, 8), (0, 4))
"""From how many training images on a step is made of how many."""

WARMUP_STEPS = 20

MANY_IMAGES, MANY_CLASSES = 5_000, 100
"""From these on, one rank for all is too little."""

SMALL_SIDE = 0.06
"""Objects whose median side is under this share of the image's lose detail in any downscaling."""

DENSE_OBJECTS = 20
"""From this many objects an image on, neighbours touch, and hiding some of them confuses more than it teaches."""

ELONGATED_RATIO = 3.0
"""From this median side ratio on, rotating an axis-aligned box makes it mostly background."""

FEW_IMAGES = 50
"""Below this, variety must come from augmentation."""


def rank(images: int, *, classes: int) -> int:
    """Rank of the LoRA update: how much there is to learn, and to learn it from.

    16 is what published runs on one domain use; thousands of images, or a hundred classes, hold more than one domain
    does. Fewer images do not want a lower rank: on 10 of them rank 8 learned a tenth less. Files and memory grow with
    it, time hardly.

    >>> rank(20, classes=2), rank(20_000, classes=2), rank(500, classes=150)
    (16, 32, 32)
    """
    return 32 if images >= MANY_IMAGES or classes >= MANY_CLASSES else 16


def views(preset: str) -> int:
    """Augmented views of an image that take turns: where only the decoder is adapted, all that comes before it is
    computed once a view, which is most of the work. After the first eight, one in eight that are shown is new.

    >>> views("decoder"), views("all")
    (8, 0)
    """
    return 8 if preset == LoraPreset.DECODER else 0


def step_images(images: int) -> int:
    """Images whose gradients make a step: 4, from 2,000 training images on 8, from 10,000 on 16.

    While images are few, many small steps learn more than few exact ones; where there are enough of both, it is the
    noise of the steps that keeps the last tenths of AP away.

    >>> [step_images(images) for images in (100, 2_000, 20_000)]
    [4, 8, 16]
    """
    return next(step for least, step in STEP_IMAGES if images >= least)


def epochs(images: int, *, step_images: int) -> int:
    """Passes over ``images`` training images when a step takes ``step_images`` of them.

    >>> epochs(20, step_images=4), epochs(300, step_images=4), epochs(20_000, step_images=16)
    (60, 27, 8)
    """
    steps_an_epoch = math.ceil(images / step_images)
    wanted = min(MOST_EPOCHS, math.ceil(STEPS / steps_an_epoch))
    return max(FEWEST_EPOCHS, wanted, math.ceil(FEWEST_STEPS / steps_an_epoch))


def warmup_fraction(steps: int) -> float:
    """Share of the steps with a rising learning rate: a twentieth, but 20 steps if that is no more than a fifth.

    AdamW knows the size of its gradients only after some steps, however short the run.

    >>> warmup_fraction(2000), warmup_fraction(200), warmup_fraction(30)
    (0.05, 0.1, 0.2)
    """
    return max(0.05, min(0.2, WARMUP_STEPS / steps))


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

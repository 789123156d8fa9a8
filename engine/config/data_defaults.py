"""Defaults derived from the data, each with its reason. Pure.

They apply to all values that neither the manifest nor a flag sets.
"""

from __future__ import annotations

import math

from engine.dataset.types import DatasetInfo
from engine.spec import AugmentationSpec, Characteristic, Intensity, LoraPreset

STEPS = 2000
"""Optimizer steps for a small or medium dataset: LoRA has converged by then (published runs stop between 500 and
3,000), and more steps on few images overfit."""

FEWEST_EPOCHS, MOST_EPOCHS, FEWEST_STEPS = 8, 40, 300
"""Bounds: a large dataset is used a few times even if that takes more steps; a tiny one gets a limited number of
epochs, but enough steps to learn anything. Early stopping ends runs that no longer improve."""

BATCH_SIZES = ((10_000, 16), (2_000, 8), (0, 4))
"""(minimum number of training images, images per optimizer step)."""

WARMUP_STEPS = 20

MANY_IMAGES, MANY_CLASSES = 5_000, 100
"""From these numbers on, the lower rank is too small."""

SMALL_SIDE = 0.06
"""Objects whose median side is below this share of the image's side lose detail in any downscaling."""

DENSE_OBJECTS = 20
"""From this number of objects per image on, neighbours touch, and hiding some of them does more harm than good."""

ELONGATED_RATIO = 3.0
"""From this median side ratio on, rotating an axis-aligned box makes it mostly background."""

FEW_IMAGES = 50
"""Below this number, variety must come from augmentation."""


def rank(images: int, *, classes: int) -> int:
    """Return the rank of the LoRA update, by the numbers of images and classes.

    Published runs on one domain use 16; thousands of images, or a hundred classes, contain more than one domain.
    A lower rank does not help with fewer images: on 10 images rank 8 learned a tenth less. File size and memory grow
    with the rank, time hardly does.

    >>> rank(20, classes=2), rank(20_000, classes=2), rank(500, classes=150)
    (16, 32, 32)
    """
    return 32 if images >= MANY_IMAGES or classes >= MANY_CLASSES else 16


def views(preset: str) -> int:
    """Return the number of augmented views of an image that are used in turn.

    If only the decoder is adapted, all layers before it, which are most of the work, run once per view. After the
    first eight views, one in eight is new.

    >>> views("decoder"), views("all")
    (8, 0)
    """
    return 8 if preset == LoraPreset.DECODER else 0


def batch_size(images: int) -> int:
    """Return the images per optimizer step: 4, from 2,000 training images on 8, from 10,000 on 16.

    With few images, many small steps learn more than few exact ones; with enough of both, the noise of small steps
    costs the last tenths of AP.

    >>> [batch_size(images) for images in (100, 2_000, 20_000)]
    [4, 8, 16]
    """
    return next(size for least, size in BATCH_SIZES if images >= least)


def epochs(images: int, *, batch_size: int) -> int:
    """Return the passes over ``images`` training images if a step takes ``batch_size`` of them.

    >>> epochs(20, batch_size=4), epochs(300, batch_size=4), epochs(20_000, batch_size=16)
    (60, 27, 8)
    """
    steps_an_epoch = math.ceil(images / batch_size)
    wanted = min(MOST_EPOCHS, math.ceil(STEPS / steps_an_epoch))
    return max(FEWEST_EPOCHS, wanted, math.ceil(FEWEST_STEPS / steps_an_epoch))


STUDENT_STEPS = {True: 3000, False: 1500}
"""Optimizer steps of a student with random weights, and of one with pretrained ones."""

FEWEST_STUDENT_EPOCHS, MOST_STUDENT_EPOCHS = 24, 300


def student_batch_size(images: int) -> int:
    """Return the images per optimizer step of a student: 8, from 2,000 training images on 16, from 10,000 on 32."""
    return 2 * batch_size(images)


def student_epochs(images: int, *, batch_size: int, random: bool) -> int:
    """Return the passes over ``images`` training images if a step takes ``batch_size`` of them.

    >>> student_epochs(20, batch_size=8, random=True), student_epochs(205, batch_size=8, random=True)
    (300, 116)
    """
    wanted = math.ceil(STUDENT_STEPS[random] / math.ceil(images / batch_size))
    return max(FEWEST_STUDENT_EPOCHS, min(MOST_STUDENT_EPOCHS, wanted))


def warmup_fraction(steps: int) -> float:
    """Return the share of warm-up steps: a twentieth, or 20 steps if that is more, but at most a fifth.

    AdamW needs some steps to estimate the size of its gradients, even in a short run.

    >>> warmup_fraction(2000), warmup_fraction(200), warmup_fraction(30)
    (0.05, 0.1, 0.2)
    """
    return max(0.05, min(0.2, WARMUP_STEPS / steps))


def augmentation(asked: AugmentationSpec, info: DatasetInfo) -> AugmentationSpec:
    """Return the requested augmentation, with the characteristics that the boxes show and an intensity.

    Views made of several images are off unless requested.
    """
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
            "mosaic": asked.mosaic or 0,
            "paste": asked.paste or 0,
        }
    )

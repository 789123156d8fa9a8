"""Draw the example images of a report: ground truth, before and after, as embedded JPEGs."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.dataset.types import Detections
from engine.evaluation.drawing import color_of, draw, label_of, rescaled
from engine.evaluation.example_images import MIN_SCORE, SampleView, agreement

TRUTH = "Truth"
BEFORE_AFTER, TEACHER_STUDENT = ("Before", "After"), ("Teacher", "Student")
"""Labels of the second and third picture."""

SIDE = 480
"""Longer side of a picture in pixels; smaller images are enlarged up to 2x, so that names fit in."""


@dataclass(frozen=True)
class Picture:
    """One picture of an example image.

    Attributes:
        label: Truth, Before or After, Teacher or Student.
        caption: Numbers of found objects and false detections.
        alt: Alternative text.
        data_uri: The JPEG as a data URI.
        size: Width and height in pixels.
    """

    label: str
    caption: str
    alt: str
    data_uri: str
    size: tuple[int, int]


@dataclass(frozen=True)
class Triple:
    """The three pictures of one example image; ``size`` is (width, height) of the original."""

    file_name: str
    size: tuple[int, int]
    pictures: tuple[Picture, ...]


def pictures(view: SampleView, *, budget: int, side: int = SIDE, labels: tuple[str, str] = BEFORE_AFTER) -> Triple:
    """Draw an example image; each JPEG has at most about ``budget`` bytes, and ``side`` pixels on its longer side."""
    record = view.record
    drawn = tuple(
        _picture(label, image, seen, view, budget) for label, image, seen in panels(view, side=side, labels=labels)
    )
    return Triple(record.file_name, (record.width, record.height), drawn)


def panels(
    view: SampleView, *, side: int, labels: tuple[str, str] = BEFORE_AFTER
) -> list[tuple[str, NDArray[np.uint8], Detections]]:
    """Draw ground truth and the detections of base and adapted teacher.

    Args:
        view: The example image.
        side: Longer side of each picture in pixels; small images are enlarged up to 2x.
        labels: Names of both.

    Returns:
        Three tuples of label, (h, w, 3) uint8 picture, and the drawn detections in pixels of the original image.
    """
    record = view.record
    original = record.width, record.height
    scale = min(side / max(original), 2.0)
    size = max(1, round(record.width * scale)), max(1, round(record.height * scale))
    image = np.asarray(Image.fromarray(view.image).resize(size, Image.Resampling.LANCZOS))
    drawn = []
    for label, part in ((TRUTH, record.truth), (labels[0], record.before), (labels[1], record.after)):
        seen = part.detections(width=record.width, height=record.height)
        picture = draw(
            image,
            rescaled(seen, size=original, new_size=size),
            record.classes,
            score_threshold=MIN_SCORE,
            with_scores=label != TRUTH,
        )
        drawn.append((label, picture, seen))
    return drawn


def legend(views: Sequence[SampleView]) -> list[tuple[str, str, str]]:
    """Return (colour in hex, label in the pictures, name) of each class in the examples."""
    seen: set[int] = set()
    for view in views:
        for part in (view.record.truth, view.record.before, view.record.after):
            seen.update(part.class_indices)
    classes = views[0].record.classes if views else ()
    return [("#{:02x}{:02x}{:02x}".format(*color_of(i)), label_of(i, classes), classes[i]) for i in sorted(seen)]


def _picture(label: str, image: NDArray[np.uint8], seen: Detections, view: SampleView, budget: int) -> Picture:
    record = view.record
    counts = Counter(record.classes[i] for i in seen.class_indices.tolist())
    what = ", ".join(f"{name} × {count}" for name, count in counts.most_common(6)) or "nothing"
    what += ", and others" if len(counts) > 6 else ""
    caption = what
    if label != TRUTH:
        agreed = agreement(record.truth.detections(width=record.width, height=record.height), seen)
        found = f"{agreed.found} of {agreed.objects}"
        caption = f"{found} found, {agreed.false} false" if seen.prompt_indices is None else f"{found} masks correct"
    size = (image.shape[1], image.shape[0])
    return Picture(label, caption, f"{label}, {record.file_name}: {what}", _jpeg(image, budget), size)


def _jpeg(image: NDArray[np.uint8], budget: int) -> str:
    content = b""
    for quality in (88, 80, 70, 55, 40, 25, 15):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality, optimize=True)
        content = buffer.getvalue()
        if len(content) <= budget:
            break
    return "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")

"""The sample images of a report: truth, before and after, drawn and embedded."""

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
from engine.evaluation.samples import MIN_SCORE, Agreement, SampleView, agreement

SIDE = 480
"""Longer side of a picture in pixels; smaller images are enlarged, at most twice, so that names fit in."""


@dataclass(frozen=True)
class Picture:
    """One picture of a sample.

    Attributes:
        label: Truth, Before or After.
        caption: How much of the truth it has.
        alt: What it shows, in words.
        data_uri: The JPEG.
        size: Width and height in pixels.
    """

    label: str
    caption: str
    alt: str
    data_uri: str
    size: tuple[int, int]


@dataclass(frozen=True)
class Triple:
    """One sample image thrice; ``size`` is that of the original."""

    file_name: str
    size: tuple[int, int]
    pictures: tuple[Picture, ...]


def pictures(view: SampleView, *, budget: int) -> Triple:
    """Draw a sample; each JPEG has at most about ``budget`` bytes."""
    record = view.record
    scale = min(SIDE / max(record.width, record.height), 2.0)
    size = (max(1, round(record.width * scale)), max(1, round(record.height * scale)))
    image = np.asarray(Image.fromarray(view.image).resize(size, Image.Resampling.LANCZOS))
    truth = record.truth.detections(width=record.width, height=record.height)
    drawn = [_picture("Truth", image, truth, None, view, budget)]
    for label, part in (("Before", record.before), ("After", record.after)):
        seen = part.detections(width=record.width, height=record.height)
        drawn.append(_picture(label, image, seen, agreement(truth, seen), view, budget))
    return Triple(record.file_name, (record.width, record.height), tuple(drawn))


def legend(views: Sequence[SampleView]) -> list[tuple[str, str, str]]:
    """(colour in hex, label in the pictures, name) of the classes that are seen."""
    seen: set[int] = set()
    for view in views:
        for part in (view.record.truth, view.record.before, view.record.after):
            seen.update(part.class_indices)
    classes = views[0].record.classes if views else ()
    return [("#{:02x}{:02x}{:02x}".format(*color_of(i)), label_of(i, classes), classes[i]) for i in sorted(seen)]


def _picture(
    label: str,
    image: NDArray[np.uint8],
    detections: Detections,
    agreed: Agreement | None,
    view: SampleView,
    budget: int,
) -> Picture:
    record = view.record
    size = (image.shape[1], image.shape[0])
    drawn = draw(
        image,
        rescaled(detections, size=(record.width, record.height), new_size=size),
        record.classes,
        score_threshold=MIN_SCORE,
        with_scores=agreed is not None,
    )
    counts = Counter(record.classes[i] for i in detections.class_indices.tolist())
    what = ", ".join(f"{name} × {count}" for name, count in counts.most_common(6)) or "nothing"
    what += ", and others" if len(counts) > 6 else ""
    if agreed is None:
        caption = what
    elif detections.prompt_indices is not None:
        caption = f"{agreed.found} of {agreed.objects} masks right"
    else:
        caption = f"{agreed.found} of {agreed.objects} found, {agreed.false} false"
    return Picture(label, caption, f"{label}, {record.file_name}: {what}", _jpeg(drawn, budget), size)


def _jpeg(image: NDArray[np.uint8], budget: int) -> str:
    content = b""
    for quality in (88, 80, 70, 55, 40, 25, 15):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality, optimize=True)
        content = buffer.getvalue()
        if len(content) <= budget:
            break
    return "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")

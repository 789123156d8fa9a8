"""Render HTML pages of the validation images, with ground truth and detections of base and adapted teacher.

A page is self-contained, runs no script, and links to the previous and the next page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from engine.dataset.types import Detections, Sample
from engine.evaluation.example_drawings import BEFORE_AFTER, legend, pictures
from engine.evaluation.example_images import MIN_SCORE, SampleView, make_record
from engine.evaluation.ground_truth import GroundTruth
from engine.layout import validation_page

PER_PAGE = 50
MOST_IMAGES = 500
"""Maximum images, evenly selected from larger validation splits: about 25 MB of pages."""

SIDE = 320
"""Longer side of a picture in pixels."""

PICTURE_BYTES = 16_000
"""Approximate bytes of each picture."""


def write_pages(
    folder: Path,
    truth: GroundTruth,
    load: Callable[[int], Sample],
    *,
    title: str,
    before: Sequence[Detections],
    after: Sequence[Detections],
    labels: tuple[str, str] = BEFORE_AFTER,
) -> int:
    """Write the pages of a teacher and return their number.

    Args:
        folder: Output folder, created if missing.
        truth: Ground truth of the validation split.
        load: Return the sample of an image by its index.
        title: Heading of each page.
        before: Detections of the base in each image, in original pixels.
        after: Detections of the adapted teacher.
        labels: Names of both in the pages.
    """
    chosen = _spread(len(truth), MOST_IMAGES)
    pages = [chosen[start : start + PER_PAGE] for start in range(0, len(chosen), PER_PAGE)]
    template = Environment(
        loader=PackageLoader("engine.evaluation", ""), autoescape=True, undefined=StrictUndefined
    ).get_template("validation_page.html.j2")
    folder.mkdir(parents=True, exist_ok=True)
    for number, indices in enumerate(pages, start=1):
        views = []
        for index in indices:
            image = Image.fromarray(load(index).image)
            image.thumbnail((SIDE, SIDE))
            record = make_record(truth, index, before[index], after[index])
            views.append(SampleView(np.asarray(image), record))
        html = template.render(
            title=title,
            number=number,
            count=len(pages),
            page_name=validation_page,
            shown=len(chosen),
            images=len(truth),
            score_threshold=MIN_SCORE,
            legend=[] if truth.iou_type == "segm" else legend(views),
            samples=[pictures(view, budget=PICTURE_BYTES, side=SIDE, labels=labels) for view in views],
        )
        (folder / validation_page(number)).write_text(html, encoding="utf-8")
    return len(pages)


def _spread(count: int, most: int) -> list[int]:
    """Return at most ``most`` of the indices below ``count``, evenly spread.

    >>> _spread(3, 5), _spread(10, 4)
    ([0, 1, 2], [0, 2, 5, 7])
    """
    return list(range(count)) if count <= most else [i * count // most for i in range(most)]

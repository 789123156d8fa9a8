from __future__ import annotations

import inspect

import pytest

from engine.cli.labels import label, mistakes_line, progress_line
from engine.labelling import Progress
from engine.models.labeller import Labeller
from engine.results.metrics import Confusion


@pytest.mark.parametrize(
    ("done", "speed", "left"),
    [(999_940, 4.0, "15 s"), (996_000, 4.0, "17 min"), (0, 4.0, "69 h 27 min"), (1_000_000, 4.0, "0 s")],
)
def test_progress_says_how_far_how_fast_and_how_long(done: int, speed: float, left: str) -> None:
    line = progress_line(Progress(done, 1_000_000, objects=1234, skipped=0, images_per_second=speed))
    assert line == f"{done:,} of 1,000,000 images, 4.0/s, {left} left; 1,234 objects"


def test_progress_counts_what_could_not_be_read_and_promises_nothing_without_a_speed() -> None:
    line = progress_line(Progress(5, 10, objects=0, skipped=2, images_per_second=0.0))
    assert line == "5 of 10 images, 0.0/s; 0 objects, 2 unreadable"


def test_doubles_are_left_out_by_default_as_in_python() -> None:
    assert (
        inspect.signature(label).parameters["nms"].default == inspect.signature(Labeller).parameters["nms_iou"].default
    )


def test_mistakes_are_called_as_in_the_documentation() -> None:
    counts = Confusion(objects=10, found=6, missed=3, false=2, wrong_class=1, badly_localised=4, duplicates=5)
    assert mistakes_line(counts) == (
        "6 of 10 objects have a correct label, 3 are missed; other labels: 2 false, 1 misclassified, 4 badly "
        "localised, 5 duplicate"
    )

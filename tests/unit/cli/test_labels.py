from __future__ import annotations

import inspect

import pytest

from engine.cli.labels import label, progress_line
from engine.labelling import Progress
from engine.models.labeller import Labeller


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

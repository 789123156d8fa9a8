"""Listeners of a run's events: throttling for logs, and TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.evaluation.example_drawings import panels
from engine.evaluation.example_images import SampleView
from engine.results.events import Event, Listener
from engine.results.types import TeacherResult

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

BASE_RUN = "base"

PICTURE_SIDE = 480
"""Longer side in pixels of each of the three pictures of a sample."""


def thinned(listener: Listener, *, seconds: float) -> Listener:
    """Pass on at most one step event in ``seconds``, with the mean loss since the last; and every other event.

    Time is that of the events. A delayed step is passed on before the next event of another kind.
    """
    held: list[Event] = []
    last = float("-inf")

    def pass_on() -> None:
        nonlocal last
        if held:
            newest = held[-1]
            losses = [event.loss for event in held if event.loss is not None]
            listener(newest.model_copy(update={"loss": sum(losses) / len(losses)} if losses else {}))
            last = newest.time
            held.clear()

    def listen(event: Event) -> None:
        if event.event == "step":
            held.append(event)
            if event.time - last >= seconds:
                pass_on()
        else:
            pass_on()
            listener(event)

    return listen


class TensorBoard:
    """Writes curves, pictures and settings of a run for TensorBoard; a resumed run continues at its checkpoint.

    The base is a separate run in ``base/``, with the same tags, so that both lines are in one chart.

    Args:
        folder: Folder of the event files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writers: dict[str, SummaryWriter] = {}

    def __call__(self, event: Event) -> None:
        """Write the values of an event."""
        if event.step is None:
            return
        for run, values in _scalars(event).items():
            writer = self._writer(run, event.step)
            for tag, value in values.items():
                writer.add_scalar(tag, value, event.step, walltime=event.time)
            if event.event != "step":
                writer.flush()

    def summarize(self, settings: Mapping[str, str], result: TeacherResult, samples: Sequence[SampleView]) -> None:
        """Write the end of a run: pictures of the samples, and its settings with its metrics."""
        writer = self._writer("", result.steps)
        for view in samples:
            images = np.concatenate([image for _, image, _ in panels(view, side=PICTURE_SIDE)], axis=1)
            writer.add_image(f"truth, base, adapted/{view.record.file_name}", images, result.steps, dataformats="HWC")
        metrics = {"hparam/ap": result.after.ap, "hparam/ap50": result.after.ap50, "hparam/ap_base": result.before.ap}
        writer.add_hparams(dict(settings), metrics, run_name=".", global_step=result.steps)

    def close(self) -> None:
        """Flush and close the files."""
        for writer in self._writers.values():
            writer.close()

    def _writer(self, run: str, step: int) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter  # its import takes a second that only training should pay

        if run not in self._writers:
            self._writers[run] = SummaryWriter(str(self.folder / run), purge_step=step)
        return self._writers[run]


def _scalars(event: Event) -> dict[str, dict[str, float]]:
    """Return the values of an event by tag, for the run itself (``""``) and for its base."""
    if event.event == "step":
        values = {
            "train/loss": event.loss,
            "train/learning_rate": event.learning_rate,
            "train/images_per_second": event.images_per_second,
            **{f"train/{name}": value for name, value in (event.losses or {}).items()},
        }
        return {"": {tag: value for tag, value in values.items() if value is not None}}
    if event.event != "evaluation" or event.ap is None:
        return {}
    if event.phase == "base":
        return {BASE_RUN: {"ap/val": event.ap}}
    if event.phase == "adapted":
        base = {} if event.ap_before is None else {BASE_RUN: {"ap/val": event.ap_before}}
        return {"": {"ap/val": event.ap}, **base}
    if event.phase == "retention_base":
        return {BASE_RUN: {"ap/retention": event.ap}}
    return {"": {f"ap/{event.phase}": event.ap}}

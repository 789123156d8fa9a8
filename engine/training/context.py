"""Settings and services that all phases of a teacher's training share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from engine.config import ModelSettings, RunConfig
from engine.errors import NoProgressError
from engine.evaluation.ground_truth import GroundTruths
from engine.layout import LAST, RunLayout
from engine.registry import ModelName
from engine.results.events import Event, Listener
from engine.storage import Storage
from engine.training.device import Stop
from engine.training.distributed import Processes
from engine.training.watchdog import Watchdog


@dataclass(frozen=True, eq=False)
class TrainingContext:
    """One model of one run, in one process: a teacher or a student.

    Attributes:
        config: Configuration of the run.
        name: Name of the model.
        settings: The model's section of the configuration.
        storage: Source of data and base models.
        layout: Files of the run on this disk.
        cache: Folder for images and base models, kept between runs.
        processes: All processes of the run.
        listen: Receives every event.
        on_checkpoint: Receives the file of every new checkpoint.
        on_hang: Receives the error before the process ends for lack of progress.
        trial: Name of the trial or fold, which has its own checkpoints; empty: the only training of the teacher.
        published: The adapter goes to the teacher's folder; False: it stays next to the checkpoints.
        truths: Ground truth of the splits evaluated so far.
    """

    config: RunConfig
    name: ModelName
    settings: ModelSettings
    storage: Storage
    layout: RunLayout
    cache: Path
    processes: Processes
    listen: Listener
    on_checkpoint: Callable[[Path], None]
    on_hang: Callable[[NoProgressError], None]
    trial: str = ""
    published: bool = True
    truths: GroundTruths = field(default_factory=GroundTruths)

    @property
    def folder(self) -> Path:
        """Folder of the adapter and its results."""
        return Path(self.layout.teacher(self.name)) if self.published else self.checkpoints

    @property
    def last(self) -> Path:
        """Folder of all checkpoints of the teacher, and of detected boxes."""
        return Path(self.layout.teacher(self.name)) / LAST

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints of this training."""
        return self.last / self.trial

    def note(self, message: str) -> None:
        """Send a message to the listeners."""
        self.listen(Event(event="note", teacher=self.name.slug, message=message))

    @contextmanager
    def watched(self, check: Callable[[], None] = lambda: None) -> Iterator[Stop]:
        """Inside the block, end the process if it makes no progress, and set a flag on SIGTERM instead of exiting.

        Args:
            check: Called at every sign of progress.
        """
        with Watchdog(self.config.training.hang_seconds, self.on_hang) as watchdog:

            def alive() -> None:
                watchdog.alive()
                check()

            with Stop(alive) as stop:
                yield stop

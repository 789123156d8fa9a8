"""Callbacks of the training loop."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

from engine.models.base import Batch
from engine.results.events import Listener
from engine.results.metrics import ApMetrics
from engine.training.data.sampler import Steps


@dataclass(frozen=True)
class Hooks:
    """Callbacks of the loop.

    Attributes:
        batches: Return the batches of the run from a step on.
        evaluate: Return metrics of the current teacher on the validation split, the same in all processes.
        keep_best: Write the adapter: it is the best so far.
        on_checkpoint: Receives the path of each new checkpoint.
        listen: Receives every event.
    """

    batches: Callable[[Steps, int], Generator[Batch, None, None]]
    evaluate: Callable[[], ApMetrics]
    keep_best: Callable[[], None]
    on_checkpoint: Callable[[Path], None]
    listen: Listener

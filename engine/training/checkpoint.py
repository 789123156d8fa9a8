"""Checkpoints: the complete state of a run at one step, in one file.

One file can be written atomically: on disk by a rename, in object storage by a put. A reader always finds a complete
checkpoint of one step, verified by its sha256. The two newest are kept, so that a run can be resumed if the newest is
damaged; each contains the best adapter too. Random numbers and the learning rate are not stored: both are functions of
the step (:mod:`engine.training.loop`).

The file format is safetensors, with a JSON text in the metadata. No pickle is written or read.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.errors import BaseModelError, StorageError
from engine.layout import checkpoint_name, checkpoint_step
from engine.models.safetensors_files import read_header, read_tensors
from engine.results.metrics import ApMetrics
from engine.results.types import HistoryPoint
from engine.text.format_version import FORMAT, FORMAT_VERSION, refuse_newer
from engine.text.plain_json import read_object

MAX_STATE_BYTES = 64 << 20

KEPT = 2
"""Number of checkpoints to keep: the newest ones."""

AT_RISK = 4 * 3600.0
"""Assumed mean time between failures of a machine, in seconds. Spot GPUs run for hours; other machines fail less often,
and then additional checkpoints cost little."""

SHORTEST, LONGEST = 15.0, 1800.0
"""Bounds of the time between two checkpoints, in seconds."""

EXPECTED_COST = 1.0
"""Assumed seconds per checkpoint, until one was written."""

HISTORY_POINTS = 200
"""Points of the loss curve over a whole run."""


class Progress(BaseModel):
    """Progress of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int = Field(default=0, description="Optimizer steps done.")
    evaluated_step: int = Field(default=0, description="Steps done at the last evaluation.")
    best_step: int = Field(default=0, description="Steps done when the best adapter was measured.")
    best_ap: float | None = Field(
        default=None, description="Its AP on the validation split; None before the first evaluation."
    )
    waited: int = Field(default=0, description="Evaluations since the best one.")
    stopped_at: int | None = Field(
        default=None, description="Steps done when the run was stopped early; None: it was not."
    )
    history: tuple[HistoryPoint, ...] = ()
    loss_sum: float = Field(default=0, description="Sum over the steps since the last point of the history.")
    loss_steps: int = 0
    seconds: float = Field(default=0, description="Wall-clock time of training and its evaluations so far.")
    peak_memory_bytes: int = 0
    step_memory_bytes: int = 0
    micro_batch_size: int | None = Field(
        default=None,
        description="Images at a time since a GPU ran out of memory; None: it did not.",
    )
    planned_micro_batch_size: int | None = Field(
        default=None,
        description="Images at a time by the memory available when the run began; None: all of a step.",
    )

    def after_step(self, loss: float, *, steps: int, epoch: float) -> Progress:
        """Return the progress after one more step.

        Args:
            loss: Loss of the step.
            steps: Steps of the whole run.
            epoch: Epochs after the step.
        """
        step, loss_sum, loss_steps = self.step + 1, self.loss_sum + loss, self.loss_steps + 1
        history = self.history
        if step % math.ceil(steps / HISTORY_POINTS) == 0 or step == steps:
            history = (*history, HistoryPoint(step=step, epoch=epoch, loss=loss_sum / loss_steps))
            loss_sum, loss_steps = 0.0, 0
        changes = {"step": step, "history": history, "loss_sum": loss_sum, "loss_steps": loss_steps}
        return self.model_copy(update=changes)

    def after_evaluation(self, ap: float, *, epoch: float) -> Progress:
        """Return the progress after an evaluation of the current step with this AP."""
        point = HistoryPoint(step=self.step, epoch=epoch, ap=ap)
        changes: dict[str, Any] = {"evaluated_step": self.step, "history": (*self.history, point)}
        if self.best_ap is None or ap > self.best_ap:
            changes |= {"best_ap": ap, "best_step": self.step, "waited": 0}
        else:
            changes |= {"waited": self.waited + 1}
        return self.model_copy(update=changes)


@dataclass(frozen=True)
class Checkpoint:
    """State of a run at one step.

    Attributes:
        progress: Progress of the run.
        before: The base teacher's metrics.
        settings: Fingerprint of the run; a checkpoint is only resumed by a run with the same.
        adapter: Tensors of the adapter.
        optimizer: State of AdamW by ``<parameter>/<name>``.
        best: Tensors of the best adapter; empty before the first evaluation.
    """

    progress: Progress
    before: dict[str, ApMetrics]
    settings: dict[str, Any]
    adapter: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    best: dict[str, Tensor] = field(default_factory=dict)


def checkpoint_interval(cost: float) -> float:
    """Return the optimal seconds between two checkpoints: Young's sqrt(2 * cost * time between failures).

    With more checkpoints their cost exceeds the saved work, with fewer more work is lost (Young, CACM 17(9), 1974).

    Args:
        cost: Seconds per checkpoint, including its upload.

    >>> round(checkpoint_interval(0.5)), checkpoint_interval(0), checkpoint_interval(3600)
    (120, 15.0, 1800.0)
    """
    return min(LONGEST, max(SHORTEST, math.sqrt(2 * cost * AT_RISK)))


def newest_first(names: Iterable[str]) -> list[str]:
    """Return the names of checkpoints, newest first."""
    return sorted(
        (name for name in names if checkpoint_step(name) is not None), key=lambda name: checkpoint_step(name) or 0
    )[::-1]


def outdated(names: Iterable[str], step: int) -> list[str]:
    """Return the names of checkpoints that are no longer kept once the one of ``step`` is written.

    Later ones belong to another attempt, which may still be running.
    """
    return [name for name in newest_first(names) if (checkpoint_step(name) or 0) <= step][KEPT:]


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> Path:
    """Write the checkpoint into ``folder``, and remove outdated ones.

    Returns:
        Its file, flushed to disk.
    """
    tensors = {
        f"{part}/{name}": tensor.detach().cpu().contiguous()
        for part in ("adapter", "optimizer", "best")
        for name, tensor in getattr(checkpoint, part).items()
    }
    state = json.dumps(
        {
            FORMAT: FORMAT_VERSION,
            "progress": checkpoint.progress.model_dump(mode="json"),
            "before": {name: metrics.model_dump(mode="json") for name, metrics in checkpoint.before.items()},
            "settings": checkpoint.settings,
        }
    )
    content = safetensors.torch.save(tensors, metadata={"state": state, "sha256": _digest(state, tensors)})
    folder.mkdir(parents=True, exist_ok=True)
    step = checkpoint.progress.step
    path, temporary = folder / checkpoint_name(step), folder / ".checkpoint.tmp"
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    for name in outdated(_names(folder), step):
        (folder / name).unlink()
    return path


def load_checkpoint(folder: Path, on_damaged: Callable[[Path], None] = lambda path: None) -> Checkpoint | None:
    """Return the newest intact checkpoint in ``folder``, or None; call ``on_damaged`` for newer damaged ones."""
    for name in newest_first(_names(folder)):
        checkpoint = read_checkpoint(folder / name)
        if checkpoint is not None:
            return checkpoint
        on_damaged(folder / name)
    return None


def read_checkpoint(path: Path) -> Checkpoint | None:
    """Read a checkpoint; None if the file is missing or damaged.

    Raises:
        StorageError: A newer version of teacher wrote it.
    """
    try:
        read_header(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        tensors = read_tensors(path)
        state = metadata["state"]
        if metadata["sha256"] != _digest(state, tensors):
            return None
        values = read_object(state.encode(), where=str(path), error=BaseModelError, limit=MAX_STATE_BYTES)
        if not isinstance(values["settings"], dict):
            return None
        refuse_newer(values, where=str(path), error=StorageError)
        return Checkpoint(
            progress=Progress.model_validate(values["progress"]),
            before={name: ApMetrics.model_validate(metrics) for name, metrics in values["before"].items()},
            settings=values["settings"],
            adapter=_part(tensors, "adapter"),
            optimizer=_part(tensors, "optimizer"),
            best=_part(tensors, "best"),
        )
    except (OSError, SafetensorError, BaseModelError, LookupError, TypeError, AttributeError, ValueError):
        return None


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _part(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}/"): t for name, t in tensors.items() if name.startswith(f"{part}/")}


def _digest(state: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()

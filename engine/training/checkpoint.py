"""All that a run needs to go on as if it had never stopped, in one file.

One file, because it is replaced at once: on disk by a rename, in object storage by a put. Whoever reads it, at any
moment, finds a whole checkpoint of one moment; its sha256 proves it. Random numbers and the learning rate need no
room in it: both are functions of the step (:mod:`engine.training.loop`).

The file is safetensors: tensors, and a JSON text in its metadata. No pickle is written or read.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.results import ApMetrics, HistoryPoint

CHECKPOINT = "checkpoint.safetensors"


class Progress(BaseModel):
    """How far a run has come."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int = Field(default=0, description="Optimizer steps done.")
    evaluated_step: int = Field(default=0, description="Steps done at the last evaluation.")
    best_step: int = Field(default=0, description="Steps done when the best adapter was measured.")
    best_ap: float | None = Field(default=None, description="Its AP on the validation part; None before the first.")
    waited: int = Field(default=0, description="Evaluations since the best one.")
    history: tuple[HistoryPoint, ...] = ()
    loss_sum: float = Field(default=0, description="Of the steps since the last point of the history.")
    loss_steps: int = 0
    seconds: float = Field(default=0, description="Wall-clock time of training and its evaluations so far.")
    peak_memory_bytes: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """One moment of a run.

    Attributes:
        progress: How far the run has come.
        before: The base teacher's metrics.
        settings: All that decides the result; a checkpoint is only taken by a run with the same.
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


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> Path:
    """Write ``folder/checkpoint.safetensors`` in place of the one that is there; it is on disk when this returns."""
    tensors = {
        f"{part}/{name}": tensor.detach().cpu().contiguous()
        for part in ("adapter", "optimizer", "best")
        for name, tensor in getattr(checkpoint, part).items()
    }
    state = json.dumps(
        {
            "progress": checkpoint.progress.model_dump(mode="json"),
            "before": {name: metrics.model_dump(mode="json") for name, metrics in checkpoint.before.items()},
            "settings": checkpoint.settings,
        }
    )
    content = safetensors.torch.save(tensors, metadata={"state": state, "sha256": _digest(state, tensors)})
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CHECKPOINT
    temporary = folder / f".{CHECKPOINT}.tmp"
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return path


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint in ``folder``; None if there is none, or none that is whole."""
    try:
        with safe_open(folder / CHECKPOINT, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        state = metadata["state"]
        if metadata["sha256"] != _digest(state, tensors):
            return None
        values = json.loads(state)
        return Checkpoint(
            progress=Progress.model_validate(values["progress"]),
            before={name: ApMetrics.model_validate(metrics) for name, metrics in values["before"].items()},
            settings=values["settings"],
            adapter=_part(tensors, "adapter"),
            optimizer=_part(tensors, "optimizer"),
            best=_part(tensors, "best"),
        )
    except (FileNotFoundError, SafetensorError, KeyError, json.JSONDecodeError, ValidationError):
        return None


def _part(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}/"): t for name, t in tensors.items() if name.startswith(f"{part}/")}


def _digest(state: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()

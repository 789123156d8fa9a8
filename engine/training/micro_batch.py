"""Choose the micro-batch size from the available memory, and count what a step holds.

The gradient of a step does not depend on how it is divided, so the machine does not influence the result.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engine.config import ModelSettings, TeacherSettings
from engine.dataset.images.preprocessing import ShortestEdgeTransform
from engine.dataset.types import CocoDataset
from engine.estimate.batch_shape import BatchShape, batch_shape
from engine.estimate.cost_model import USABLE, StepEstimate, base_of, choose_step, options
from engine.models.base import Teacher
from engine.models.model import Model
from engine.processes.launch import Rank
from engine.spec import LoraPreset
from engine.training.checkpoint import Progress
from engine.training.distributed import Processes

UNKNOWN_BASE_MICRO_BATCH = 2
"""Micro-batch size on a GPU for the base of a teacher without a cost model. A student is small: it begins with whole
steps, which are halved if they do not fit."""

KEPT_MEMORY_FACTOR = 2.0
"""Upper bound of resident memory over tensor memory in a process that keeps freed memory: freed blocks do not fit all
later allocations. SAM's decoder held 1.4 times after one step, 1.8 after three; more is returned to the system."""

CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class MicroBatchPlan:
    """Division of a step into micro-batches.

    Attributes:
        micro_batch_size: Images at a time, at most the batch size.
        plan: Estimated memory and layers to recompute; None for a base model without a cost model.
        available_memory: Bytes; None if unknown.
        kept_bytes: Expected resident bytes if the process keeps freed memory, which it then must; 0 if it must not.
    """

    micro_batch_size: int
    plan: StepEstimate | None
    available_memory: int | None
    kept_bytes: int = 0


def plan_micro_batch(
    teacher: Model,
    settings: ModelSettings,
    dataset: CocoDataset,
    *,
    bfloat16: bool,
    begun: Progress | None,
    processes: Processes,
) -> MicroBatchPlan:
    """Choose the micro-batch size so that the share of a step that each process has fits into its memory.

    The first process decides for all. A resumed run keeps the size that it began with, since rounding depends on it,
    unless the settings allow only a smaller one.

    Args:
        teacher: On its device.
        settings: Its section of the configuration.
        dataset: The training split, or a superset of it: unreadable images need not be known yet.
        bfloat16: Whether the forward pass computes in bfloat16.
        begun: Progress of the run to resume; None for a new run.
        processes: All processes of the run.
    """
    share = math.ceil(settings.batch_size / processes.rank.size)
    wanted = settings.micro_batch_size
    limit = min(wanted or share, share)
    settings = settings.model_copy(update={"micro_batch_size": limit})

    def decide() -> tuple[StepEstimate | None, int | None]:
        available_memory = measure_available_memory(teacher, processes.rank)
        plan = partial(plan_step, teacher, settings, dataset, bfloat16=bfloat16)
        if available_memory is not None and _may_keep(teacher, settings):
            kept = plan(available_memory=int(available_memory / KEPT_MEMORY_FACTOR))
            if kept is not None and KEPT_MEMORY_FACTOR * kept.memory_bytes <= USABLE * available_memory:
                return kept, available_memory
        return plan(available_memory=available_memory), available_memory

    plan, available_memory = processes.decided(decide)
    if begun is not None:
        micro_batch_size = begun.planned_micro_batch_size or limit
    elif plan is not None:
        micro_batch_size = plan.micro_batch_size
    else:
        unknown = wanted is None and teacher.device.type == "cuda" and teacher.name.traits.adapts_base
        micro_batch_size = UNKNOWN_BASE_MICRO_BATCH if unknown else limit
    micro_batch_size = min(micro_batch_size, limit)
    kept = 0
    if plan is not None and _may_keep(teacher, settings):
        kept = round(KEPT_MEMORY_FACTOR * plan.memory_bytes * max(1, micro_batch_size / plan.micro_batch_size))
    return MicroBatchPlan(
        micro_batch_size,
        plan,
        available_memory,
        kept if available_memory is not None and kept <= USABLE * available_memory else 0,
    )


def _may_keep(teacher: Model, settings: ModelSettings) -> bool:
    """Return whether keeping freed memory saves time: on a CPU, for tensors of few different sizes.

    A trained image encoder has many sizes: the process held three times the memory of SAM's tensors.
    """
    return teacher.device.type == "cpu" and not teacher.pads and _adapts_decoder(settings)


def _adapts_decoder(settings: ModelSettings) -> bool:
    return isinstance(settings, TeacherSettings) and settings.lora.preset is LoraPreset.DECODER


def plan_step(
    teacher: Model, settings: ModelSettings, dataset: CocoDataset, *, bfloat16: bool, available_memory: int | None
) -> StepEstimate | None:
    """Choose micro-batch size and activation checkpointing; None for a base model without a cost model.

    Args:
        teacher: Any.
        settings: Its section of the configuration.
        dataset: The training split.
        bfloat16: Whether the forward pass computes in bfloat16.
        available_memory: Bytes; None if unknown: then the largest micro-batch is used.
    """
    if not isinstance(teacher, Teacher) or not isinstance(settings, TeacherSettings):
        return None
    config = getattr(teacher.model, "config", None)
    base = None if config is None or not hasattr(config, "to_dict") else base_of("", config.to_dict())
    if base is None:
        return None
    shape = _batch_shape(teacher, settings, dataset)
    ways = list(options(base, settings, shape, bfloat16=bfloat16))
    if not ways:
        return None
    if available_memory is None:
        return ways[0]
    return choose_step(base, settings, shape, bfloat16=bfloat16, available_memory=available_memory) or ways[-1]


def _batch_shape(teacher: Teacher, settings: TeacherSettings, dataset: CocoDataset) -> BatchShape:
    transform = getattr(teacher, "transform", None)
    return batch_shape(
        [(image.height, image.width) for image in dataset.images],
        tokens=teacher.caption_tokens(),
        objects=max((len(objects) for objects in dataset.annotations), default=1),
        images=len(dataset),
        settings=settings,
        transform=transform if isinstance(transform, ShortestEdgeTransform) else None,
    )


def measure_available_memory(teacher: Model, rank: Rank) -> int | None:
    """Return the bytes that training may use, including those that the model holds already; None if unknown.

    On a CPU these are the free bytes of the container, or else of the machine, divided by its training processes.
    """
    device = teacher.device
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    left = [
        bytes_ for bytes_ in (_left_in_cgroup(CGROUP), _left_on_machine(Path("/proc/meminfo"))) if bytes_ is not None
    ]
    held = sum(p.numel() * p.element_size() for p in teacher.model.parameters())
    return min(left) // rank.local_size + held if left else None


def _left_in_cgroup(folder: Path) -> int | None:
    """Return the free bytes under the limit of this container (cgroup v2); its page cache counts as free."""
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return None if limit == "max" else max(0, int(limit) - int(used) + int(stat["inactive_file"]))
    except (OSError, ValueError, KeyError):
        return None


def _left_on_machine(file: Path) -> int | None:
    """Return the bytes available without swapping (Linux)."""
    try:
        (line,) = (line for line in file.read_text().splitlines() if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return None


def describe_plan(plan: StepEstimate, *, batch_size: int, available_memory: int | None, kept_bytes: int = 0) -> str:
    """Return a sentence that describes the choice."""
    how = (
        f"{plan.micro_batch_size} of the {batch_size} images of a step"
        if plan.micro_batch_size < batch_size
        else "whole steps"
    )
    again = f"recomputing {' and '.join(plan.checkpointing)}" if plan.checkpointing else "keeping all activations"
    of = "" if available_memory is None else f" of {available_memory / 1e9:.1f} GB"
    held = (kept_bytes or plan.memory_bytes) / 1e9
    freed = ", keeping freed memory" if kept_bytes else ""
    return f"expecting steps to hold {held:.2f} GB{of}: {how} at a time, {again}{freed}"


class TensorBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the bytes of all tensors that are alive inside its block, on every device.

    A storage counts from the operation that returns it until its last reference goes, as in
    ``torch.cuda.max_memory_allocated``, without workspaces inside an operation and without rounding. No value is
    changed. Fake tensors of ``torch._subclasses`` count too, although their values are not computed.

    Args:
        held: Tensors that exist already, such as the model's parameters.

    Attributes:
        live: Bytes now.
        peak: Maximum of ``live`` so far.
        made: Bytes of all tensors created inside the block, alive or not.
        count: Number of these tensors, about the number of kernels that ran.
    """

    def __init__(self, held: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = self.made = self.count = 0
        self._known: dict[int, int] = {}
        self._count(held)
        self.made = self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count what it returns."""
        out = func(*args, **(kwargs or {}))
        tensors = (leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor))
        self._count(tensor for tensor in tensors if tensor.layout is torch.strided)  # of others, the parts are
        return out

    def _count(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._known:
                self._known[key] = storage.nbytes()
                self.live += storage.nbytes()
                self.made += storage.nbytes()
                self.count += 1
                weakref.finalize(storage, self._gone, key)
        self.peak = max(self.peak, self.live)

    def _gone(self, key: int) -> None:
        self.live -= self._known.pop(key)


class StepMemory:
    """Peak memory of the tensors of a step: of all steps on a GPU, of the first step on a CPU.

    Args:
        peak: Bytes measured before.
    """

    def __init__(self, peak: int = 0) -> None:
        self.peak = peak

    @contextmanager
    def measured(self, model: nn.Module) -> Iterator[None]:
        """Measure one step. On a GPU this resets the peak statistics of the device."""
        device = next(model.parameters()).device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            yield
            self.peak = max(self.peak, torch.cuda.max_memory_allocated(device))
        elif not self.peak:
            with TensorBytes([*model.parameters(), *model.buffers()]) as held:
                yield
            self.peak = held.peak
        else:
            yield

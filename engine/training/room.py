"""How a step is cut, from the memory there is. Gradients do not depend on it: the machine has no say in the result."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from engine.config import TeacherSettings
from engine.dataset.types import CocoDataset
from engine.fit import USABLE, Predicted, Shown, base_of, choose, options, shown_by
from engine.launch import Place
from engine.spec import LoraPreset
from engine.teachers.base import Teacher
from engine.teachers.grounding_dino import GroundingDino
from engine.training.checkpoint import Progress
from engine.training.processes import Processes

UNKNOWN_AT_ONCE = 2
"""Images at a time on a GPU, of a base that nothing is known of."""

KEPT = 2.0
"""What a process that keeps freed memory holds over what its tensors do, at most: what was freed lies in pieces that do
not fit all of the next ones. SAM's decoder held 1.4 times after one step, 1.8 after three; more is given back."""

CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Cut:
    """How a step is cut.

    Attributes:
        at_once: Images at a time, at most as many as a batch has.
        plan: What a step is expected to hold; None: nothing is known of the base.
        room: Bytes there are; None: nobody knows.
        kept_bytes: What the process holds if it keeps the memory that it frees, as it is to do; 0: it is not to.
    """

    at_once: int
    plan: Predicted | None
    room: int | None
    kept_bytes: int = 0


def choose_cut(
    teacher: Teacher,
    settings: TeacherSettings,
    dataset: CocoDataset,
    *,
    bfloat16: bool,
    begun: Progress | None,
    processes: Processes,
) -> Cut:
    """How steps are cut so that they have room.

    The first process plans for all, and a run that goes on stays cut as it was: where numbers are rounded follows from
    it.

    Args:
        teacher: On its device.
        settings: Its part of the configuration.
        dataset: What is learned from, or more: what can be used of it need not be known yet.
        bfloat16: The arithmetic of the forward pass.
        begun: Of a run that goes on.
        processes: Those that train together.
    """

    def decide() -> tuple[Predicted | None, int | None]:
        room = room_of(teacher, processes.place)
        plan = partial(plan_step, teacher, settings, dataset, bfloat16=bfloat16)
        if room is not None and _may_keep(teacher, settings):
            kept = plan(room=int(room / KEPT))
            if kept is not None and KEPT * kept.memory_bytes <= USABLE * room:
                return kept, room
        return plan(room=room), room

    plan, room = processes.decided(decide)
    if begun is not None:
        at_once = begun.planned or settings.batch_size
    elif plan is not None:
        at_once = plan.at_once
    else:
        at_once = UNKNOWN_AT_ONCE if teacher.device.type == "cuda" else settings.batch_size
    at_once = min(at_once, settings.batch_size)
    kept = 0
    if plan is not None and _may_keep(teacher, settings):
        kept = round(KEPT * plan.memory_bytes * max(1, at_once / plan.at_once))
    return Cut(at_once, plan, room, kept if room is not None and kept <= USABLE * room else 0)


def _may_keep(teacher: Teacher, settings: TeacherSettings) -> bool:
    """Whether keeping freed memory saves time: on a CPU, for tensors of few different sizes. Those of an image encoder
    that is trained have many: SAM's held three times of what its tensors did.
    """
    return teacher.device.type == "cpu" and not teacher.pads and settings.lora.preset is LoraPreset.DECODER


def plan_step(
    teacher: Teacher, settings: TeacherSettings, dataset: CocoDataset, *, bfloat16: bool, room: int | None
) -> Predicted | None:
    """How many images at once, and what is computed again; None: nothing is known of this base.

    Args:
        teacher: Any.
        settings: Its part of the configuration.
        dataset: What is learned from.
        bfloat16: The arithmetic of the forward pass.
        room: Bytes there are; None: nobody knows, so nothing is cut.
    """
    config = getattr(teacher.model, "config", None)
    base = None if config is None or not hasattr(config, "to_dict") else base_of("", config.to_dict())
    if base is None:
        return None
    shows = _shown(teacher, settings, dataset)
    ways = list(options(base, settings, shows, bfloat16=bfloat16))
    if not ways:
        return None
    if room is None:
        return ways[0]
    return choose(base, settings, shows, bfloat16=bfloat16, room=room) or ways[-1]


def _shown(teacher: Teacher, settings: TeacherSettings, dataset: CocoDataset) -> Shown:
    detector = teacher if isinstance(teacher, GroundingDino) else None
    return shown_by(
        [(image.height, image.width) for image in dataset.images],
        tokens=0 if detector is None else max(len(prompt.input_ids) for prompt in detector.book.chunks()),
        objects=max((len(objects) for objects in dataset.annotations), default=1),
        images=len(dataset),
        settings=settings,
        transform=None if detector is None else detector.transform,
    )


def room_of(teacher: Teacher, place: Place) -> int | None:
    """Bytes that training may fill, with what the model holds already; None where nobody says.

    On a CPU that is what the container, or else the machine, has left, shared by the processes on it.
    """
    device = teacher.device
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    left = [
        bytes_ for bytes_ in (_left_in_cgroup(CGROUP), _left_on_machine(Path("/proc/meminfo"))) if bytes_ is not None
    ]
    held = sum(p.numel() * p.element_size() for p in teacher.model.parameters())
    return min(left) // place.local_size + held if left else None


def _left_in_cgroup(folder: Path) -> int | None:
    """Of the limit of this container (cgroup v2); what it holds of files gives way."""
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return None if limit == "max" else max(0, int(limit) - int(used) + int(stat["inactive_file"]))
    except (OSError, ValueError, KeyError):
        return None


def _left_on_machine(file: Path) -> int | None:
    """What can be had without swapping (Linux)."""
    try:
        (line,) = (line for line in file.read_text().splitlines() if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return None


def told(plan: Predicted, *, batch_size: int, room: int | None, kept_bytes: int = 0) -> str:
    """The choice, as a sentence."""
    how = f"{plan.at_once} of the {batch_size} images of a batch" if plan.at_once < batch_size else "whole batches"
    again = f"computing {' and '.join(plan.checkpointing)} again" if plan.checkpointing else "keeping all activations"
    of = "" if room is None else f" of {room / 1e9:.1f} GB"
    held = (kept_bytes or plan.memory_bytes) / 1e9
    freed = ", keeping freed memory" if kept_bytes else ""
    return f"expecting steps to hold {held:.2f} GB{of}: {how} at a time, {again}{freed}"

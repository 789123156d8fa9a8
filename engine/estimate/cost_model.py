"""Memory and arithmetic of a training step, estimated before a GPU is requested. Pure, without torch.

Memory and arithmetic of a step of each published base model were counted on fake tensors over a grid of shapes
(``benchmarks/write_cost_models.py``). ``cost_model.json`` keeps them as coefficients of the batch's shape: images,
positions of the feature maps, tokens, prompts. Memory is that of tensors, as
``torch.cuda.max_memory_allocated`` counts them; the CUDA context (about half a GB) and unused memory of the allocator
are not included.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.config import TeacherSettings
from engine.estimate.batch_shape import BatchShape
from engine.estimate.cost_traits import CostTraits
from engine.spec import LoraPreset, TeacherName

USABLE = 0.85
"""Share of the memory that an estimate may fill: it may be wrong, and an allocator cannot use all memory."""


@dataclass(frozen=True)
class StepEstimate:
    """Estimated memory and arithmetic of one forward and backward pass over ``micro_batch_size`` images."""

    micro_batch_size: int
    checkpointing: tuple[str, ...]
    memory_bytes: int
    flops: float
    made_bytes: float
    kernels: float


def base_of(name: str, config: Mapping[str, Any] | None = None) -> str | None:
    """Return the known base with this name, or with the dimensions of this ``config.json``; None if it is unknown."""
    for teacher, cost in _costs():
        if config is not None:
            mine = cost.dimensions(config)
            found = next((base for base, entry in cost.table.items() if entry["dimensions"] == mine), None)
        else:
            known = published(teacher)
            found = next((cost.bases[prefix] for prefix in known if name.startswith(prefix)), None)
        if found is not None:
            return found
    return None


def published(teacher: TeacherName) -> list[str]:
    """Return the name prefixes of known base models of a teacher."""
    cost = teacher.traits.cost
    return [] if cost is None else [prefix for prefix, base in cost.bases.items() if base in cost.table]


def counted(base: str) -> list[str]:
    """Return the counted presets of a known base, each with the precision of the forward pass."""
    return list(dict.fromkeys(" in ".join(key.split()[:2]) for key in cost_of(base).table[base]["entries"]))


def known() -> tuple[str, ...]:
    """Return all known base models."""
    return tuple(base for _, cost in _costs() for base in cost.table)


def teacher_of(base: str) -> TeacherName:
    """Return the teacher of a known base."""
    return next(teacher for teacher, cost in _costs() if base in cost.table)


def cost_of(base: str) -> CostTraits:
    """Return the cost traits of the teacher of a known base."""
    return next(cost for _, cost in _costs() if base in cost.table)


def _costs() -> Iterator[tuple[TeacherName, CostTraits]]:
    for teacher in TeacherName:
        if teacher.traits.cost is not None:
            yield teacher, teacher.traits.cost


def encoder_layers(base: str) -> int:
    """Return the number of encoder layers of a known base."""
    cost = cost_of(base)
    return cost.encoder_layers(cost.table[base]["dimensions"])


def key_of(preset: LoraPreset, *, bfloat16: bool, groups: Sequence[str]) -> str:
    """Return the key of a counted configuration in ``cost_model.json``."""
    return " ".join([preset.value, "bfloat16" if bfloat16 else "float32", *groups])


def estimate_step(
    base: str,
    settings: TeacherSettings,
    shape: BatchShape,
    *,
    micro_batch_size: int,
    checkpointing: Sequence[str],
    bfloat16: bool,
) -> StepEstimate | None:
    """Estimate a step of ``micro_batch_size`` images.

    Args:
        base: A base model that :func:`base_of` returns.
        settings: Settings of the teacher.
        shape: Largest shape of its inputs.
        micro_batch_size: Images at a time.
        checkpointing: Groups of layers whose activations are recomputed; if that combination was not counted, the
            largest counted subset of it, which takes no less memory.
        bfloat16: Whether the forward pass computes in bfloat16.

    Returns:
        None if nothing was counted for this preset.
    """
    cost, preset = cost_of(base), settings.lora.preset
    entries = cost.table[base]["entries"]
    fewer = [groups for groups in reversed(cost.ladder[preset]) if set(groups) <= set(checkpointing)]
    keys = [key_of(preset, bfloat16=bfloat16, groups=groups) for groups in fewer]
    entry = next((entries[key] for key in keys if key in entries), None)
    if entry is None:
        return None
    values = cost.features(
        images=micro_batch_size,
        positions=shape.positions if micro_batch_size == 1 else shape.padded_positions,
        queries=cost.table[base]["dimensions"][-1],
        tokens=shape.tokens,
        objects=shape.objects,
        rank=settings.lora.rank,
    )

    def total(coefficients: Sequence[float]) -> float:
        return sum(a * b for a, b in zip(coefficients, values, strict=True))

    return StepEstimate(
        micro_batch_size=micro_batch_size,
        checkpointing=tuple(checkpointing),
        memory_bytes=round(1e6 * max(map(total, entry["memory"]))),
        flops=1e9 * total(entry["flops"]),
        made_bytes=1e6 * total(entry["made"]),
        kernels=entry["kernels"],
    )


def choose_step(
    base: str, settings: TeacherSettings, shape: BatchShape, *, bfloat16: bool, available_memory: float
) -> StepEstimate | None:
    """Choose the largest micro-batch that fits, with as little recomputed as that takes; None if an image is too large.

    Args:
        base: A base model that :func:`base_of` returns.
        settings: Settings of the teacher; its batch and micro-batch size are maxima, its ``checkpointing`` is used.
        shape: Largest shape of its inputs.
        bfloat16: Whether the forward pass computes in bfloat16.
        available_memory: Bytes.
    """
    return next(
        (
            one
            for one in options(base, settings, shape, bfloat16=bfloat16)
            if one.memory_bytes <= USABLE * available_memory
        ),
        None,
    )


def options(base: str, settings: TeacherSettings, shape: BatchShape, *, bfloat16: bool) -> Iterator[StepEstimate]:
    """Yield all options, the fastest first."""
    ladder = cost_of(base).ladder[settings.lora.preset]
    micro_batch_size = min(settings.micro_batch_size or settings.batch_size, settings.batch_size, max(1, shape.images))
    while True:
        for groups in ladder if settings.checkpointing == "auto" else (settings.checkpointing,):
            one = estimate_step(
                base, settings, shape, micro_batch_size=micro_batch_size, checkpointing=groups, bfloat16=bfloat16
            )
            if one is not None:
                yield one
        if micro_batch_size == 1:
            return
        micro_batch_size = math.ceil(micro_batch_size / 2)

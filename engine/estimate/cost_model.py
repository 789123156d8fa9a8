"""Memory and arithmetic of a training step, estimated before a GPU is requested. Pure, without torch.

Memory and arithmetic of a step of each published base model were counted on fake tensors over a grid of shapes
(``benchmarks/memory_table.py``). ``cost_model.json`` keeps them as coefficients of the batch's shape: images, positions
of the feature maps, tokens, prompts. Memory is that of tensors, as
``torch.cuda.max_memory_allocated`` counts them; the CUDA context (about half a GB) and unused memory of the allocator
are not included.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Any, ClassVar

from engine.config import TeacherSettings
from engine.dataset.images.preprocessing import ShortestEdgeTransform
from engine.dataset.types import DatasetInfo
from engine.spec import LoraPreset, TeacherName

Ladder = Mapping[LoraPreset, tuple[tuple[str, ...], ...]]
"""Groups of layers to recompute with each preset, fewest first."""

USABLE = 0.85
"""Share of the memory that an estimate may fill: it may be wrong, and an allocator cannot use all memory."""

STRIDES = (8, 16, 32, 64)


@dataclass(frozen=True)
class BatchShape:
    """Largest shape of the inputs of a run.

    Attributes:
        positions: Positions of all feature maps of one image.
        padded_positions: The same for an image in a batch, where each is padded to the largest.
        tokens: Tokens of a caption.
        objects: Prompts per image.
        images: Number of images.
    """

    positions: int
    padded_positions: int
    tokens: int
    objects: int
    images: int = 1_000_000


@dataclass(frozen=True)
class StepEstimate:
    """Estimated memory and arithmetic of one forward and backward pass over ``micro_batch_size`` images."""

    micro_batch_size: int
    checkpointing: tuple[str, ...]
    memory_bytes: int
    flops: float
    made_bytes: float
    kernels: float


class CostTraits(ABC):
    """Dependence of the cost of a teacher's steps on its base, its settings and its inputs.

    Attributes:
        ladder: Groups of layers to recompute with each preset, fewest first.
        bases: Known base by the prefix of published names.
    """

    ladder: ClassVar[Ladder]
    bases: ClassVar[Mapping[str, str]]

    @cached_property
    def table(self) -> Mapping[str, Any]:
        """Counted bases: ``cost_model.json`` next to the module of the class, which the benchmark writes."""
        package = type(self).__module__.rpartition(".")[0]
        content = resources.files(package).joinpath("cost_model.json").read_text(encoding="utf-8")
        table: Mapping[str, Any] = json.loads(content)
        return table

    @abstractmethod
    def dimensions(self, config: Mapping[str, Any]) -> list[Any] | None:
        """Return the values of a ``config.json`` that determine memory, with the library's defaults.

        The last one is the number of the decoder's queries. None: it is the configuration of another model.
        """

    @abstractmethod
    def encoder_layers(self, dimensions: Sequence[Any]) -> int:
        """Return the number of encoder layers of a base with these dimensions."""

    @abstractmethod
    def features(
        self, *, images: int, positions: int, queries: int, tokens: int, objects: int, rank: int
    ) -> tuple[float, ...]:
        """Return the terms whose weighted sums are memory and arithmetic, scaled so that coefficients are near 1.

        Args:
            images: Images per batch.
            positions: Positions of the feature maps of an image, see :func:`count_positions`.
            queries: Queries of the decoder.
            tokens: Tokens of a caption.
            objects: Prompts per image.
            rank: Rank of the adapter.
        """


def count_positions(height: int, width: int) -> int:
    """Count the positions of the feature maps of a detector with four of them.

    >>> count_positions(800, 1333)
    22223
    """
    return sum(math.ceil(height / stride) * math.ceil(width / stride) for stride in STRIDES)


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


def shown(info: DatasetInfo, settings: TeacherSettings, transform: ShortestEdgeTransform | None = None) -> BatchShape:
    """Return the largest input shape by the inspection's median and largest image size."""
    images = info.image_sizes
    sizes = [] if images is None else [images.median_size, images.largest_size]
    names = [one.name for one in info.classes if one.annotations]
    # A word of a vocabulary has about six letters; two tokens begin and end the caption, one ends each phrase.
    tokens = 2 + sum(1 + sum(math.ceil(len(word) / 6) for word in name.split() or [name]) for name in names)
    return batch_shape(
        [(height, width) for width, height in sizes],
        tokens=tokens,
        objects=1 if images is None else images.objects_max,
        images=info.images,
        settings=settings,
        transform=transform,
    )


def batch_shape(
    sizes: Iterable[tuple[int, int]],
    *,
    tokens: int,
    objects: int,
    images: int,
    settings: TeacherSettings,
    transform: ShortestEdgeTransform | None = None,
) -> BatchShape:
    """Return the largest input shape of images of these sizes.

    Args:
        sizes: Heights and widths in pixels; those that are not known are 0.
        tokens: Of the longest caption.
        objects: Of the image that has most.
        images: How many there are.
        settings: Of the teacher.
        transform: Resizes its images; default: as published.
    """
    transform = transform or ShortestEdgeTransform()
    known = {size for size in sizes if min(size) > 0}
    resized = [transform.plan(*size).resized for size in known] or [(transform.shortest_edge, transform.longest_edge)]
    return BatchShape(
        positions=max(count_positions(*size) for size in resized),
        padded_positions=count_positions(max(height for height, _ in resized), max(width for _, width in resized)),
        tokens=min(tokens, 256),
        objects=max(1, settings.prompts_per_image(objects)),
        images=images,
    )


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

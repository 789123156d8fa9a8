"""Rough time of training on one GPU, from data sheets; no GPU has calibrated it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.config import TeacherSettings
    from engine.estimate.cost_model import StepEstimate

EFFICIENCY, LAUNCH_SECONDS, PASSES = 0.4, 1e-5, 3
"""Assumed: share of the data sheet's arithmetic that is reached, seconds per kernel launch, accesses of each tensor."""


@dataclass(frozen=True)
class Gpu:
    """Memory, peak of dense products (in bfloat16 if supported, else float32) and memory bandwidth of a GPU model."""

    gibibytes: int
    teraflops: float
    gigabytes_per_second: int
    bfloat16: bool = True


GPUS: Mapping[str, Gpu] = {
    "T4": Gpu(16, 8.1, 320, bfloat16=False),
    "V100": Gpu(16, 15.7, 900, bfloat16=False),
    "L4": Gpu(24, 121, 300),
    "A10": Gpu(24, 125, 600),
    "RTX 4090": Gpu(24, 165, 1008),
    "L40S": Gpu(48, 362, 864),
    "A100": Gpu(80, 312, 2039),
    "H100": Gpu(80, 989, 3350),
    "H200": Gpu(141, 989, 4800),
}


def batch_seconds(batch: StepEstimate, gpu: Gpu) -> float:
    """Return the time of a forward and backward pass: launches plus the larger of arithmetic and memory traffic."""
    arithmetic = batch.flops / (gpu.teraflops * 1e12 * EFFICIENCY)
    traffic = PASSES * batch.made_bytes / (gpu.gigabytes_per_second * 1e9)
    return batch.kernels * LAUNCH_SECONDS + max(arithmetic, traffic)


def training_seconds(batch: StepEstimate, settings: TeacherSettings, gpu: Gpu, *, images: int, evaluated: int) -> float:
    """Return the time of all epochs and evaluations; an evaluation has no backward pass, a third of the work."""
    steps = settings.epochs * math.ceil(images / settings.batch_size)
    evaluations = 2 + min(settings.evaluations, settings.epochs)
    batches = steps * math.ceil(settings.batch_size / batch.micro_batch_size)
    return (batches + evaluations * evaluated / batch.micro_batch_size / 3) * batch_seconds(batch, gpu)

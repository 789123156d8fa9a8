"""AdamW over the trained parameters: gradients, steps, and its state as plain tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from engine.config import ModelSettings
from engine.errors import LossNotFiniteError
from engine.models.base import WHOLE_RATE as WHOLE_RATE
from engine.models.base import adapter_rate_share
from engine.models.model import Batch, Model, to_device
from engine.training.distributed import ALONE, Processes


def build_optimizer(
    parameters: Mapping[str, nn.Parameter],
    settings: ModelSettings,
    rate_share: Callable[[str], float] = adapter_rate_share,
) -> AdamW:
    """Create AdamW (arXiv 1711.05101), without weight decay for vectors such as biases and scales.

    Each group has a ``rate_share``: its learning rate is that share of the rate of the step.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        share = rate_share(name)
        groups.setdefault((share, settings.weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    return AdamW(
        [{"params": some, "rate_share": share, "weight_decay": decay} for (share, decay), some in groups.items()],
        lr=settings.learning_rate,
    )


def optimizer_tensors(optimizer: AdamW, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return the state by ``<parameter>/<name>``; parameters that never had a gradient have none."""
    return {
        f"{name}/{key}": value
        for name, parameter in parameters.items()
        if parameter in optimizer.state
        for key, value in optimizer.state[parameter].items()
    }


def restore_optimizer(optimizer: AdamW, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    """Restore the tensors of :func:`optimizer_tensors`."""
    for path, tensor in tensors.items():
        name, key = path.rsplit("/", 1)
        parameter = parameters[name]
        # AdamW keeps its step counters on the CPU, so that reading them never waits for the GPU.
        value = tensor.clone() if key == "step" else tensor.to(parameter.device, copy=True)
        optimizer.state[parameter][key] = value


def gradients(
    teacher: Model,
    batches: Sequence[Batch],
    precision: AbstractContextManager[Any],
    processes: Processes = ALONE,
) -> dict[str, float]:
    """Compute the gradients of one optimizer step, summed over its batches and all processes.

    Losses are divided by the objects of the whole step, over its batches and over all processes, so that the
    gradient does not depend on how the step is divided.

    Args:
        teacher: The model to train, on its device.
        batches: All batches of the step on this process, on the CPU; may be empty.
        precision: Arithmetic of the forward pass.
        processes: All processes of the run.

    Returns:
        The loss of the whole step and its parts.

    Raises:
        torch.OutOfMemoryError: In all processes, if one of them runs out of memory.
    """
    count = max(1.0, processes.sum(sum(teacher.count(batch) for batch in batches)))
    sums: dict[str, Tensor] = {}
    too_much = ""
    try:
        for batch in batches:
            with precision:
                losses = teacher.loss(to_device(batch, teacher.device), count=count)
            losses["loss"].backward()  # type: ignore[no-untyped-call]
            for name, value in losses.items():
                sums[name] = sums.get(name, torch.zeros((), device=value.device)) + value.detach()
    except torch.OutOfMemoryError as error:
        # Keep only the message: the traceback references the tensors that fill the memory.
        too_much = str(error) or "out of memory"
    if processes.any(bool(too_much)):
        raise torch.OutOfMemoryError(too_much or "another process of the run is out of memory")
    seen = {name: float(value) for name, value in sums.items()}
    return processes.add_up(teacher.trained_parameters().values(), seen)


def apply_gradients(optimizer: AdamW, *, learning_rate: float, clip_norm: float, losses: Mapping[str, float]) -> None:
    """Clip the gradients to ``clip_norm``, take the step and clear them.

    Raises:
        LossNotFiniteError: The loss or its gradient is NaN or infinite; no parameter has changed.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = float(nn.utils.clip_grad_norm_(parameters, clip_norm))
    if not math.isfinite(losses["loss"]) or not math.isfinite(norm):
        parts = ", ".join(f"{name} {value:g}" for name, value in losses.items())
        raise LossNotFiniteError(f"the loss or its gradient is not finite ({parts}; norm of the gradient {norm:g})")
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("rate_share", 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)

"""Activation checkpointing: recompute activations in the backward pass instead of keeping them (arXiv:1604.06174).

The library supports this only for SAM's image encoder; its code for Grounding DINO's decoder passes arguments in the
wrong order. Here each module of a group keeps its inputs, and runs its forward pass again when its gradient is
computed: losses and gradients do not change, including dropout and autocast.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.utils.checkpoint import checkpoint

from engine.errors import ConfigError
from engine.models.model import Model


def recompute(teacher: Model, groups: Collection[str]) -> None:
    """Recompute the activations of these groups of layers and keep those of all others, in place.

    Args:
        teacher: Teacher, with its adapter if it gets one.
        groups: Names in ``teacher.recomputable``.

    Raises:
        ConfigError: The teacher has no such group.
    """
    if unknown := [group for group in groups if group not in teacher.recomputable]:
        raise ConfigError(
            f"{teacher.name.path}.checkpointing has {unknown[0]!r}, which {teacher.name} has not: "
            f"there are {', '.join(teacher.recomputable) or 'none'}"
        )
    model: Any = teacher.model
    model = model.get_base_model() if isinstance(model, PeftModel) else model
    patterns = {group: re.compile(pattern) for group, pattern in teacher.recomputable.items()}
    for name, module in model.named_modules():
        group = next((group for group, pattern in patterns.items() if pattern.fullmatch(name)), None)
        if group is not None:
            _set_checkpointing(module, group in groups)


def _set_checkpointing(module: nn.Module, on: bool) -> None:
    forward = module.forward
    kept = forward.forward if isinstance(forward, _Checkpointed) else forward
    module.forward = _Checkpointed(kept, draws=_may_draw(module)) if on else kept


def _may_draw(module: nn.Module) -> bool:
    """Return whether the module may draw random numbers, which must be the same in the second pass."""
    return any(isinstance(part, nn.Dropout) and part.p > 0 for part in module.modules())


class _Checkpointed:
    """Forward pass of a module with checkpointing. An object, so that it is copied with its module."""

    def __init__(self, forward: Any, *, draws: bool) -> None:
        self.forward = forward
        self.draws = draws

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*args, **kwargs)
        return checkpoint(self.forward, *args, use_reentrant=False, preserve_rng_state=self.draws, **kwargs)

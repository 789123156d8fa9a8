"""Activations that are computed again in the backward pass instead of being kept (arXiv:1604.06174).

The library has this for SAM's image encoder alone; its path for Grounding DINO's decoder hands arguments over in the
wrong order. Here each module of a group keeps its inputs, and its forward pass is run a second time when its gradient
is due: losses and gradients are what they are without, dropout and autocast included.
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
from engine.teachers.base import Teacher


def recompute(teacher: Teacher, groups: Collection[str]) -> None:
    """From now on these groups of layers keep no activations, and all others do, in place.

    Args:
        teacher: With its adapter, if it is to have one.
        groups: Names in ``teacher.recomputable``.

    Raises:
        ConfigError: The teacher has no such group.
    """
    if unknown := [group for group in groups if group not in teacher.recomputable]:
        raise ConfigError(
            f"teachers.{teacher.name.slug}.checkpointing has {unknown[0]!r}, which {teacher.name} has not: "
            f"there are {', '.join(teacher.recomputable) or 'none'}"
        )
    model: Any = teacher.model
    model = model.get_base_model() if isinstance(model, PeftModel) else model
    patterns = {group: re.compile(pattern) for group, pattern in teacher.recomputable.items()}
    for name, module in model.named_modules():
        group = next((group for group, pattern in patterns.items() if pattern.fullmatch(name)), None)
        if group is not None:
            _again(module, group in groups)


def _again(module: nn.Module, on: bool) -> None:
    forward = module.forward
    kept = forward.forward if isinstance(forward, _Again) else forward
    module.forward = _Again(kept, draws=_draws(module)) if on else kept


def _draws(module: nn.Module) -> bool:
    """Whether the module may draw random numbers: they have to be the same again."""
    return any(isinstance(part, nn.Dropout) and part.p > 0 for part in module.modules())


class _Again:
    """The forward pass of a module, run again for its gradient. An object, so that it is copied with its module."""

    def __init__(self, forward: Any, *, draws: bool) -> None:
        self.forward = forward
        self.draws = draws

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*args, **kwargs)
        return checkpoint(self.forward, *args, use_reentrant=False, preserve_rng_state=self.draws, **kwargs)

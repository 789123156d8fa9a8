"""Small modules that an adapter trains completely, as PEFT's ``modules_to_save``: the adapter holds a copy of each."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn

_TRAINED = "_trained_tensors"
"""Attribute of a wrapper: the trained tensors, while blended ones are in use."""


def matching(model: nn.Module, pattern: str | None) -> list[str]:
    """Return the names of the modules of a base model that match a regular expression."""
    return [name for name, _ in model.named_modules() if pattern and re.fullmatch(pattern, name)]


@torch.no_grad()
def blend_trained_modules(model: nn.Module, strength: float) -> None:
    """Interpolate completely trained modules between the base's weights (0) and the trained ones (1), in place.

    For LoRA matrices the same is a factor of the update. Saving writes the interpolated tensors. Tensors that are
    loaded afterwards count as trained ones.
    """
    for module in _wrappers(model):
        used = _adapted(module)
        trained = vars(module).setdefault(_TRAINED, {name: tensor.clone() for name, tensor in used.items()})
        for name, base in module.original_module.state_dict().items():
            used[name].copy_(trained[name] if strength == 1 else torch.lerp(base, trained[name], strength))


def forget_blended(model: nn.Module) -> None:
    """Take the present tensors as the trained ones."""
    for module in _wrappers(model):
        vars(module).pop(_TRAINED, None)


def _adapted(module: ModulesToSaveWrapper) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = module.modules_to_save["default"].state_dict()
    return tensors


def _wrappers(model: nn.Module) -> Iterator[ModulesToSaveWrapper]:
    yield from (module for module in model.modules() if isinstance(module, ModulesToSaveWrapper))

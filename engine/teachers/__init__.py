"""The teachers: base models, their adapters, and how to load both.

Names are imported when they are first used, so that this package and the traits of teachers need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.models.adapter_files import find_adapters
    from engine.models.base import Batch, Example, LoraTargets, Teacher
    from engine.models.base_sources import LocalModel, is_hub_id, resolve_base_model
    from engine.models.labeller import Labeller
    from engine.models.load import load_adapted, load_labeller, load_teacher
    from engine.models.lora import adapter_off
    from engine.models.registry import REGISTRY

__all__ = [
    "REGISTRY",
    "Batch",
    "Example",
    "Labeller",
    "LocalModel",
    "LoraTargets",
    "Teacher",
    "adapter_off",
    "find_adapters",
    "is_hub_id",
    "load_adapted",
    "load_labeller",
    "load_teacher",
    "resolve_base_model",
]

_MODULES = {
    "engine.models.adapter_files": ("find_adapters",),
    "engine.models.base": ("Batch", "Example", "LoraTargets", "Teacher"),
    "engine.models.base_sources": ("LocalModel", "is_hub_id", "resolve_base_model"),
    "engine.models.labeller": ("Labeller",),
    "engine.models.load": ("load_adapted", "load_labeller", "load_teacher"),
    "engine.models.lora": ("adapter_off",),
    "engine.models.registry": ("REGISTRY",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""The teachers: base models, their adapters, and how to load both."""

from importlib import import_module

from transformers.utils import logging

from engine.models.base import Batch, Example, LoraTargets, Teacher
from engine.models.base_sources import LocalModel, is_hub_id, resolve_base_model
from engine.models.labeller import Labeller
from engine.models.load import find_adapters, load_adapted, load_labeller, load_teacher
from engine.models.lora import adapter_off
from engine.models.registry import REGISTRY

logging.disable_progress_bar()  # one per file would disturb the progress lines of the trainer

for module in ("grounding_dino.model", "sam.model"):  # each registers its teacher
    import_module(f"{__name__}.{module}")

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

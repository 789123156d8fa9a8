"""The teachers: base models, their adapters, and how to load both."""

from transformers.utils import logging

from engine.models.base import Batch, Example, LoraTargets, Teacher
from engine.models.base_sources import LocalModel, is_hub_id, resolve_base_model
from engine.models.labeller import Labeller
from engine.models.load import find_adapters, load_adapted, load_labeller, load_teacher
from engine.models.lora import adapter_off
from engine.models.registry import REGISTRY
from engine.teachers.grounding_dino import model as grounding_dino
from engine.teachers.sam import model as sam

logging.disable_progress_bar()  # one per file would disturb the progress lines of the trainer

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
    "grounding_dino",
    "is_hub_id",
    "load_adapted",
    "load_labeller",
    "load_teacher",
    "resolve_base_model",
    "sam",
]

"""The teachers: base models, their adapters, and how to load both."""

from transformers.utils import logging

from engine.teachers import grounding_dino, sam
from engine.teachers.base import REGISTRY, Batch, Example, LoraTargets, Teacher
from engine.teachers.base_sources import LocalModel, is_hub_id, resolve_base_model
from engine.teachers.labeller import Labeller
from engine.teachers.load import find_adapters, load_adapted, load_labeller, load_teacher
from engine.teachers.lora import adapter_off

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

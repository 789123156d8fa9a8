"""Build an RF-DETR with random weights, or load one from untrusted files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import RfDetrForObjectDetection

from engine.errors import ConfigError
from engine.students.detector_base import check_heads_alone_differ, class_settings, load_with_settings
from engine.students.rf_detr.sizes import SIDES, random_config

HEAD = "class_embed"
"""Part of the names of parameters that depend on the classes."""


def build(size: str, classes: Sequence[str]) -> Any:
    """Return a model with random weights.

    Raises:
        ConfigError: There is no such size.
    """
    if size not in SIDES:
        raise ConfigError(f"RF-DETR has no size {size!r}: there are {', '.join(SIDES)}")
    model: Any = RfDetrForObjectDetection(random_config(size, classes))
    nn.init.zeros_(model.model.reference_point_embed.weight)  # as published; the library has small random ones
    return model


def load_base(folder: Path, classes: Sequence[str]) -> Any:
    """Return the model of a folder, in 32 bit on the CPU; heads of other classes are random.

    Raises:
        BaseModelError: The folder holds no RF-DETR that can be loaded.
    """
    values = class_settings(classes)
    model, report = load_with_settings(RfDetrForObjectDetection, folder, title="RF-DETR", values=values)
    check_heads_alone_differ(folder, model, report, heads=[HEAD])
    return model

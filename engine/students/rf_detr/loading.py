"""Build an RF-DETR with random weights, or load one from untrusted files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import RfDetrConfig, RfDetrForObjectDetection

from engine.errors import ConfigError
from engine.models.base_files import check_loaded, load_weights, read_config, refuse_unloadable
from engine.students.rf_detr.sizes import SIDES, class_settings, random_config

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
    with refuse_unloadable(folder, "RF-DETR"):
        read_config(folder, [RfDetrConfig.model_type])
        config: Any = RfDetrConfig.from_pretrained(folder, local_files_only=True)
        for name, value in class_settings(classes).items():
            setattr(config, name, value)
        model, report = load_weights(RfDetrForObjectDetection, folder, config, ignore_mismatched_sizes=True)
    missing = [name for name in report["missing_keys"] if HEAD not in name]
    other = [str(one[0]) for one in report["mismatched_keys"] if HEAD not in str(one[0])]
    check_loaded(folder, model, [*missing, *other])
    return model

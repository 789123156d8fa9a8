"""Build an RF-DETR with random weights, or load one from untrusted files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import RfDetrConfig, RfDetrForInstanceSegmentation, RfDetrForObjectDetection

from engine.errors import ConfigError
from engine.models.base_files import read_config
from engine.students.detector import MASK_STRIDE
from engine.students.detector_base import check_heads_alone_differ, class_settings, load_with_settings
from engine.students.rf_detr.layer_masks import random_head
from engine.students.rf_detr.sizes import random_config, sizes_of

HEAD = "class_embed"
"""Part of the names of parameters that depend on the classes."""


def build(size: str, classes: Sequence[str], *, masks: bool) -> Any:
    """Return a model with random weights.

    Raises:
        ConfigError: There is no such size.
    """
    sizes = sizes_of(masks=masks)
    if size not in sizes:
        raise ConfigError(f"RF-DETR has no size {size!r}: there are {', '.join(sizes)}")
    config = random_config(sizes[size], classes)
    detector: Any = RfDetrForObjectDetection(config)
    nn.init.zeros_(detector.model.reference_point_embed.weight)  # as published; the library has small random ones
    return _with_masks(detector, config) if masks else detector


def load_base(folder: Path, classes: Sequence[str], *, masks: bool) -> Any:
    """Return the model of a folder, in 32 bit on the CPU; heads of other classes are random.

    A base for boxes gets a mask head with random weights if masks are learned; one with masks loses it otherwise.

    Raises:
        BaseModelError: The folder holds no RF-DETR that can be loaded.
    """
    architectures = read_config(folder, [RfDetrConfig.model_type]).get("architectures")
    masked = architectures == [RfDetrForInstanceSegmentation.__name__]
    library: Any = RfDetrForInstanceSegmentation if masked else RfDetrForObjectDetection
    values = {**class_settings(classes), "mask_downsample_ratio": MASK_STRIDE}
    model, report = load_with_settings(library, folder, title="RF-DETR", values=values)
    check_heads_alone_differ(folder, model, report, heads=[HEAD])
    if masked == masks:
        return model
    return _with_masks(model, model.config) if masks else model.model


def _with_masks(detector: Any, config: Any) -> Any:
    """Return a model whose masks are random, around a detector."""
    model: Any = RfDetrForInstanceSegmentation(config)
    model.model = detector
    random_head(model)
    return model

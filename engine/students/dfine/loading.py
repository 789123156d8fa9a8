"""Build a D-FINE with random weights, or load one from untrusted files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import DFineForObjectDetection

from engine.errors import ConfigError
from engine.students.detector_base import check_heads_alone_differ, load_with_settings
from engine.students.dfine.mask_head import HEAD, MaskedDFine
from engine.students.dfine.settings import DFineSettings
from engine.students.dfine.sizes import IMAGE_SIZES, class_settings, random_config

HEADS = ("class_embed", "enc_score_head", "denoising_class_embed")
"""Parts of names of parameters that depend on the classes."""


def build(size: str, classes: Sequence[str], settings: DFineSettings) -> Any:
    """Return a model with random weights.

    Raises:
        ConfigError: There is no such size.
    """
    if size not in IMAGE_SIZES:
        raise ConfigError(f"D-FINE has no size {size!r}: there are {', '.join(IMAGE_SIZES)}")
    model: Any = _class(settings)(random_config(size, classes, denoising=settings.denoising))
    for head in (
        model.model.enc_bbox_head,
        model.model.decoder.pre_bbox_head,
    ):  # as published; the library has random ones
        nn.init.zeros_(head.layers[-1].weight)
        nn.init.zeros_(head.layers[-1].bias)
    return model


def _class(settings: DFineSettings) -> Any:
    return MaskedDFine if settings.masks else DFineForObjectDetection


def load_base(folder: Path, classes: Sequence[str], settings: DFineSettings) -> Any:
    """Return the model of a folder, in 32 bit on the CPU; heads of other classes are random.

    Raises:
        BaseModelError: The folder holds no D-FINE that can be loaded.
    """
    values = class_settings(classes, denoising=settings.denoising)
    model, report = load_with_settings(_class(settings), folder, title="D-FINE", values=values)
    if any(name.startswith(HEAD) for name in report["missing_keys"]):  # the library's random weights are far smaller
        model.mask_head = model.mask_head_of(model.config)
    check_heads_alone_differ(folder, model, report, heads=HEADS, added=[HEAD])
    return model

"""Build a D-FINE with random weights, or load one from untrusted files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import DFineConfig, DFineForObjectDetection

from engine.errors import ConfigError
from engine.models.base_files import check_loaded, load_weights, read_config, refuse_unloadable
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
    with refuse_unloadable(folder, "D-FINE"):
        read_config(folder, [DFineConfig.model_type])
        config: Any = DFineConfig.from_pretrained(folder, local_files_only=True)
        for name, value in class_settings(classes, denoising=settings.denoising).items():
            setattr(config, name, value)
        model, report = load_weights(_class(settings), folder, config, ignore_mismatched_sizes=True)
    if any(name.startswith(HEAD) for name in report["missing_keys"]):  # the library's random weights are far smaller
        model.mask_head = model.mask_head_of(config)
    missing = [name for name in report["missing_keys"] if not any(head in name for head in (*HEADS, HEAD))]
    other = [str(one[0]) for one in report["mismatched_keys"] if not any(head in str(one[0]) for head in HEADS)]
    check_loaded(folder, model, [*missing, *other])
    return model

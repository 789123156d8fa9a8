"""Compare the modules that an adapter's file names with those of the model: a file selects nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from engine.config import LoraSettings
from engine.errors import BaseModelError
from engine.layout import ADAPTER_CONFIG
from engine.models.adapter_config import AdapterConfig, named_by
from engine.models.trained_modules import matching
from engine.spec import LoraPreset

if TYPE_CHECKING:
    from engine.models.base import LoraTargets, Teacher


def named_targets(teacher: Teacher, config: AdapterConfig, lora: LoraSettings, folder: Path, *, what: str) -> str:
    """Return a regular expression that matches exactly the modules with LoRA matrices that a file names.

    Args:
        teacher: A teacher without an adapter.
        config: ``adapter_config.json``.
        lora: Settings in ``teacher.json``.
        folder: Folder of both.
        what: Beginning of the message if none of them exists.

    Raises:
        BaseModelError: They are given by an expression that is not written here, or none of them is adapted here.
    """
    own, everything = teacher.lora_targets(lora), _all_targets(teacher, lora)
    known = [
        name
        for name, module in teacher.model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and re.fullmatch(everything.target_modules, name)
    ]
    if isinstance(config.targets, str):
        if config.targets not in (own.target_modules, *own.earlier, *known):
            raise BaseModelError(
                f"{folder / ADAPTER_CONFIG}: target_modules is {config.targets[:80]!r}, a regular expression that this "
                "version does not write: list the names of the modules"
            )
        named = {name for name in known if re.fullmatch(config.targets, name)}
    else:
        named = named_by(config.targets, known)
    if not named:
        raise BaseModelError(f"{what}: none of its target modules is a layer that is adapted here")
    return "|".join(map(re.escape, sorted(named)))


def named_trained(teacher: Teacher, config: AdapterConfig, lora: LoraSettings, folder: Path) -> list[str]:
    """Return the completely trained modules that a file names.

    Raises:
        BaseModelError: No preset trains one of them completely.
    """
    known = matching(teacher.model, _all_targets(teacher, lora).trained_modules)
    if unknown := [name for name in config.trained_modules if name not in known]:
        raise BaseModelError(
            f"{folder / ADAPTER_CONFIG}: modules_to_save has {unknown[0][:80]!r}, which is not trained completely here"
        )
    return sorted(set(config.trained_modules))


def _all_targets(teacher: Teacher, lora: LoraSettings) -> LoraTargets:
    """Return what the largest preset adapts."""
    return teacher.lora_targets(lora.model_copy(update={"preset": LoraPreset.ALL, "skip_layers": 0}))

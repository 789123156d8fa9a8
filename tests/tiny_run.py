"""A run's folder without a run: adapters that were never trained, of the tiny teachers of the examples."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tiny import grounding_dino_settings
from tiny_sam import sam_settings
from tiny_sam2 import sam2_settings
from torch import nn

from engine.models.base_sources import resolve_base_model
from engine.models.lora import AdapterCard, attach, save_adapter, trainable_parameters
from engine.spec import TeacherName
from engine.storage import Storage
from engine.teachers import load_teacher

TINY = Path(__file__).resolve().parents[1] / "examples" / "tiny_teachers"
SETTINGS: Mapping[TeacherName, Callable[..., Any]] = {
    TeacherName.GROUNDING_DINO: grounding_dino_settings,
    TeacherName.SAM: sam_settings,
    TeacherName.SAM2: sam2_settings,
}
CLASSES = ("bolt", "nut", "washer")


def save_run(
    folder: Path,
    teachers: tuple[TeacherName, ...] = (TeacherName.GROUNDING_DINO, TeacherName.SAM),
    *,
    thresholds: Mapping[str, float] | None = None,
    classes: Sequence[str] = CLASSES,
    prompts: Mapping[str, str] | None = None,
) -> Path:
    """``teachers/<teacher>_lora/`` with adapters that change what the teachers say; ``result.json`` with thresholds."""
    for name in teachers:
        base = TINY / name.slug
        settings = SETTINGS[name](base_model=str(base))
        cache = folder / "cache"
        teacher = load_teacher(name, settings, classes=classes, prompts=prompts or {}, storage=Storage(), cache=cache)
        attach(teacher, settings.lora)
        torch.manual_seed(0)
        for key, parameter in trainable_parameters(teacher).items():
            if "lora_B" in key:
                nn.init.normal_(parameter, std=0.02)
            elif "modules_to_save" in key:
                parameter.data += 0.02 * torch.randn_like(parameter)
        model = resolve_base_model(str(base), None, storage=Storage(), cache=cache)
        card = AdapterCard(
            teacher=name,
            base_revision=model.sha256,
            base_sha256=model.sha256,
            base_parts=dict(model.parts),
            classes=tuple(classes),
            prompts=dict(prompts or {}),
            settings=settings,
        )
        adapter = folder / "teachers" / f"{name.slug}_lora"
        save_adapter(teacher, adapter, card=card)
        if thresholds is not None:
            (adapter / "result.json").write_text(json.dumps({"teacher": name.value, "thresholds": thresholds}))
    return folder

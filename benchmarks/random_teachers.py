"""Teachers with published architectures and random weights: speed and memory do not depend on the weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection, SamConfig, SamModel

from engine.config.resolve import teacher_defaults
from engine.dataset import Sample
from engine.spec import LoraPreset, TeacherName
from engine.teachers.grounding_dino.lora_presets import PRESETS
from engine.teachers.grounding_dino.model import GroundingDino
from engine.teachers.sam.model import Sam

TOKENIZER = Path(__file__).resolve().parents[1] / "examples" / "tiny_teachers" / "grounding_dino"
CLASSES = ("circle", "square", "triangle", "star")


def grounding_dino_tiny(folder: Path, *, preset: LoraPreset = LoraPreset.ENCODER_DECODER) -> GroundingDino:
    """Build Grounding DINO with Swin-T, 172 M parameters, as IDEA-Research/grounding-dino-tiny."""
    if not folder.exists():
        torch.manual_seed(0)
        GroundingDinoForObjectDetection(GroundingDinoConfig()).save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(TOKENIZER / name, folder)
    settings = settings_of(TeacherName.GROUNDING_DINO, preset)
    return GroundingDino.load(folder, classes=CLASSES, prompts={}, settings=settings)


def sam_base(folder: Path, *, preset: LoraPreset = LoraPreset.DECODER, **changes: Any) -> Sam:
    """Build SAM with ViT-B, 94 M parameters, as facebook/sam-vit-base."""
    if not folder.exists():
        torch.manual_seed(0)
        SamModel(SamConfig()).save_pretrained(folder)
    settings = settings_of(TeacherName.SAM, preset, **changes)
    return Sam.load(folder, classes=CLASSES, prompts={}, settings=settings)


def settings_of(name: TeacherName, preset: LoraPreset, *, rank: int = 16, **changes: Any) -> Any:
    """Return the default settings of a teacher, with fixed values for those derived from data."""
    settings = teacher_defaults(name)
    settings |= {"epochs": 1, "batch_size": 4, "warmup_fraction": 0.0, "views": 0} | changes
    settings["lora"] |= {"preset": preset, "rank": rank, "alpha": 2 * rank}
    return name.traits.settings.model_validate(settings)


def as_documented(model: Any, *, rank: int = 16) -> tuple[Any, torch.optim.AdamW]:
    """Prepare the library's Grounding DINO as documented: PEFT's LoRA on our preset encoder-decoder, and AdamW."""
    model.model.get_input_embeddings = model.model.text_backbone.get_input_embeddings  # PEFT fails without
    target = PRESETS[LoraPreset.ENCODER_DECODER]
    model = peft.get_peft_model(model, peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=target)).train()
    return model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)


def scene(seed: int, *, objects: int, height: int = 800, width: int = 1333) -> Sample:
    """Return an image of noise with random boxes and their masks."""
    rng = np.random.default_rng(seed)
    left, top = rng.uniform(0, width * 0.7, objects), rng.uniform(0, height * 0.7, objects)
    sides = rng.uniform(0.05, 0.3, (2, objects))
    boxes = np.stack([left, top, left + sides[0] * width, top + sides[1] * height], axis=1).astype(np.float32)
    masks = np.zeros((objects, height, width), np.bool_)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.astype(int), strict=True):
        mask[y0:y1, x0:x1] = True
    return Sample(
        image=rng.integers(0, 255, (height, width, 3), np.uint8),
        boxes_xyxy=boxes,
        class_indices=rng.integers(0, len(CLASSES), objects),
        is_crowd=np.zeros(objects, np.bool_),
        annotation_indices=np.arange(objects),
        masks=masks,
    )

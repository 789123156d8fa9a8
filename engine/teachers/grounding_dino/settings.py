"""Settings of Grounding DINO in ``teacher_config.yaml``; defaults are in ``defaults.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from engine.config.teachers import TeacherSettings


class GroundingDinoSettings(TeacherSettings):
    """Grounding DINO: boxes from class names."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "denoising": "denoising queries were removed, as they lowered AP: leave this setting out"
    }
    GROUPS = ("backbone", "encoder", "decoder")

    classification_weight: float = Field(ge=0, description="of the focal loss over tokens")
    l1_weight: float = Field(ge=0, description="of the L1 loss on boxes")
    giou_weight: float = Field(ge=0, description="of the generalized IoU loss on boxes")
    max_detections: int = Field(ge=1, le=2000, description="boxes kept per image, best first")
    nms: float = Field(gt=0, le=1, description="IoU above which two boxes of a class are one object; 1: keep both")

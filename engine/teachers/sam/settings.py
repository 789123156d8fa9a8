"""Settings of SAM in ``teacher_config.yaml``; defaults are in ``defaults.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from engine.config.base import MOST
from engine.config.teachers import TeacherSettings


class SamSettings(TeacherSettings):
    """SAM: masks from boxes and points."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "correction_clicks": "correction clicks were removed, as they lowered AP: leave this setting out"
    }
    GROUPS = ("encoder", "decoder")
    IOU_POWER: ClassVar[int] = 2
    """Power of the error of the predicted IoU in the loss."""

    objects_per_image: int = Field(ge=1, le=MOST, description="objects per image and visit, selected in turn")
    box_jitter: float = Field(ge=0, le=0.5, description="std of a prompt box corner, in box sides")
    point_share: float = Field(ge=0, le=1, description="share of objects prompted by a point instead of a box")
    detector_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of prompt boxes taken from the tuned Grounding DINO, where it found the object",
    )
    focal_weight: float = Field(ge=0, description="of the focal loss on mask pixels")
    dice_weight: float = Field(ge=0, description="of the dice loss")
    iou_weight: float = Field(ge=0, description="of the error of the predicted IoU")

    def prompts_per_image(self, objects: int) -> int:
        """See :meth:`TeacherSettings.prompts_per_image`."""
        return min(objects, self.objects_per_image)

    def prompt_share(self) -> float:
        """See :meth:`TeacherSettings.prompt_share`."""
        return self.detector_share

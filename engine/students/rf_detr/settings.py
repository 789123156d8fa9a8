"""Settings of RF-DETR; defaults are in ``defaults.yaml``."""

from __future__ import annotations

from pydantic import Field

from engine.config.base import MOST
from engine.config.students import StudentSettings


class RfDetrSettings(StudentSettings):
    """RF-DETR: boxes of a fixed list of classes, with masks if the data has them."""

    classification_weight: float = Field(ge=0, description="of the IoU-aware cross-entropy over classes")
    l1_weight: float = Field(ge=0, description="of the L1 loss on boxes")
    giou_weight: float = Field(ge=0, description="of the generalized IoU loss on boxes")
    mask_bce_weight: float = Field(default=5.0, ge=0, description="of the cross-entropy of masks, in the matching too")
    mask_dice_weight: float = Field(default=5.0, ge=0, description="of the Dice loss of masks, in the matching too")
    max_detections: int = Field(ge=1, le=MOST, description="boxes kept per image, best first")

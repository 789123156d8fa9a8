"""Settings of D-FINE; defaults are in ``defaults.yaml``."""

from __future__ import annotations

from pydantic import Field

from engine.config.base import MOST
from engine.config.students import StudentSettings


class DFineSettings(StudentSettings):
    """D-FINE: boxes of a fixed list of classes, with masks if the data has them."""

    classification_weight: float = Field(ge=0, description="of the varifocal loss over classes")
    l1_weight: float = Field(ge=0, description="of the L1 loss on boxes")
    giou_weight: float = Field(ge=0, description="of the generalized IoU loss on boxes")
    fgl_weight: float = Field(ge=0, description="of the fine-grained localization loss on the edges of boxes")
    ddf_weight: float = Field(ge=0, description="of the distillation of edges from the last decoder layer")
    mask_bce_weight: float = Field(default=1.0, ge=0, description="of the cross-entropy of masks inside boxes")
    mask_dice_weight: float = Field(default=1.0, ge=0, description="of the Dice loss of masks inside boxes")
    denoising: int = Field(ge=0, le=1000, description="denoising queries in training; 0: none")
    max_detections: int = Field(ge=1, le=MOST, description="boxes kept per image, best first")

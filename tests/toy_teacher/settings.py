from __future__ import annotations

from pydantic import Field

from engine.config import TeacherSettings


class ToySettings(TeacherSettings):
    """The one square of an image."""

    box_weight: float = Field(ge=0, description="of the L1 loss on boxes")

"""``student.json``: the facts next to the weights of a student that are needed to load it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import transformers
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationInfo, field_validator

from engine.config.students import StudentSettings
from engine.dataset.types import Frame
from engine.errors import BaseModelError
from engine.layout import STUDENT_CARD
from engine.registry import StudentName
from engine.text.format_version import FORMAT_VERSION, refuse_newer
from engine.text.plain_json import file_content, parse_json

CARD_BYTES = 16 << 20


class StudentCard(BaseModel):
    """Contents of ``student.json``."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format_version: int = FORMAT_VERSION
    student: StudentName
    base_revision: str = Field(description="Commit of a hub model, sha256 of the weights of any other.")
    base_sha256: str = Field(description="sha256 of the weights that training began with; of settings if random.")
    classes: tuple[str, ...] = Field(description="Class names in the order of class indices.")
    settings: SerializeAsAny[StudentSettings] = Field(description="The student's section of the configuration.")
    image_size: tuple[int, int] = Field(description="Height and width in pixels that images are scaled to.")
    frame: Frame = Field(
        default=Frame.UPRIGHT, description="Frame of EXIF-rotated images in training: upright, or as stored."
    )
    licence: str = Field(description="SPDX id of the licence of code and base weights.")
    transformers_version: str = transformers.__version__

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the card in a student's folder.

        Raises:
            BaseModelError: It is missing, or cannot be read.
        """
        where = str(folder / STUDENT_CARD)
        try:
            content = file_content(folder / STUDENT_CARD, error=BaseModelError, limit=CARD_BYTES)
        except FileNotFoundError:
            raise BaseModelError(f"{folder} has no {STUDENT_CARD}: it is not the folder of a student") from None
        refuse_newer(content, where=where, error=BaseModelError)
        return parse_json(cls, content, where=where, error=BaseModelError)

    @field_validator("settings", mode="wrap")
    @classmethod
    def _of_the_student(cls, settings: Any, handler: Any, info: ValidationInfo) -> Any:
        student: StudentName | None = info.data.get("student")
        return settings if student is None else student.traits.settings.model_validate(settings)

"""Load the base model of SAM 2 from untrusted files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import Sam2Model

from engine.errors import BaseModelError
from engine.teachers.sam.loading import check_image_size, load_promptable
from engine.teachers.sam2.traits import SAM2


def load_base(folder: Path) -> Any:
    """Return the frozen ``Sam2Model`` of a folder, see :func:`load_promptable`.

    Published folders are those of the video model (``sam2_video``), which contains the image model.
    """
    return load_promptable(folder, Sam2Model, kinds=SAM2.model_types, title="SAM 2", check=_check)


def _check(config: Any, preprocessor: Mapping[str, Any], where: str) -> None:
    """Check that the sizes of image, feature maps and preprocessor belong together."""
    vision, side = config.vision_config, config.prompt_encoder_config.image_size
    sizes = [list(one) for one in vision.backbone_feature_sizes]
    if vision.num_feature_levels != 3 or sizes != [[side // stride] * 2 for stride in (4, 8, 16)] or side % 32:
        raise BaseModelError(
            f"{where}: config.json next to it has an image_size of {side} and feature maps of {str(sizes)[:80]}: they "
            "do not belong together"
        )
    size = preprocessor.get("size")
    for edge in ("height", "width"):
        check_image_size(size.get(edge) if isinstance(size, dict) else size, side, size=size, where=where)

"""Load the base model of SAM from untrusted files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, SamModel

from engine.dataset.images.preprocessing import check_normalisation
from engine.errors import BaseModelError
from engine.models.base_files import check_loaded, check_size, read_config, shortened
from engine.storage.base_model_identity import LIMITS, PREPROCESSOR
from engine.text.plain_json import read_object_file


def load_base(folder: Path) -> Any:
    """Return the frozen ``SamModel`` of a folder, in 32 bit on the CPU.

    Raises:
        BaseModelError: The folder holds no SAM that can be loaded, or files that do not belong together.
    """
    try:
        read_config(folder, ("sam",))
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        check_size(folder, lambda: SamModel(config))
        _check_preprocessor(folder, config.vision_config.image_size)
        model, report = SamModel.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except BaseModelError:
        raise
    except Exception as error:  # the library may raise anything for untrusted files
        raise BaseModelError(f"{folder} holds no SAM that can be loaded: {shortened(error)}") from error
    check_loaded(folder, model, report["missing_keys"])
    return model.requires_grad_(False).eval()


def _check_preprocessor(folder: Path, image_size: int) -> None:
    """Check that ``preprocessor_config.json``, if it exists, agrees with the preprocessing used here."""
    file = folder / PREPROCESSOR
    if not file.is_file():
        return
    values = read_object_file(file, error=BaseModelError, limit=LIMITS[PREPROCESSOR])
    check_normalisation(values, where=str(file))
    size = values.get("size")
    longest = size.get("longest_edge") if isinstance(size, dict) else size
    if longest is not None and longest != image_size:
        raise BaseModelError(
            f"{file}: size is {str(size)[:80]}, and config.json next to it has an image_size of {image_size}: they do "
            "not belong together"
        )

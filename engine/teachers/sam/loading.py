"""Load the base models of SAM and its relatives from untrusted files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from transformers import SamModel

from engine.dataset.images.preprocessing import check_normalisation
from engine.errors import BaseModelError
from engine.models.base_files import check_loaded, load_weights, read_config, refuse_unloadable
from engine.storage.base_model_identity import LIMITS, PREPROCESSOR
from engine.text.plain_json import read_object_file


def load_base(folder: Path) -> Any:
    """Return the frozen ``SamModel`` of a folder, see :func:`load_promptable`."""

    def check(config: Any, preprocessor: Mapping[str, Any], where: str) -> None:
        size = preprocessor.get("size")
        longest = size.get("longest_edge") if isinstance(size, dict) else size
        check_image_size(longest, config.vision_config.image_size, size=size, where=where)

    return load_promptable(folder, SamModel, kinds=("sam",), title="SAM", check=check)


def load_promptable(
    folder: Path,
    model_class: Any,
    *,
    kinds: Collection[str],
    title: str,
    check: Callable[[Any, Mapping[str, Any], str], None],
) -> Any:
    """Return the frozen model of a folder, in 32 bit on the CPU.

    Args:
        folder: Folder of the base model.
        model_class: Class of transformers.
        kinds: Accepted values of ``model_type`` in ``config.json``.
        title: Name of the model in messages.
        check: Checks configuration and content of ``preprocessor_config.json`` (empty if there is none), and takes
            the name of that file for messages.

    Raises:
        BaseModelError: The folder holds no such model that can be loaded, or files that do not belong together.
    """
    with refuse_unloadable(folder, title):
        read_config(folder, kinds)
        config = model_class.config_class.from_pretrained(folder, local_files_only=True)
        check(config, _preprocessor(folder), str(folder / PREPROCESSOR))
        model, report = load_weights(model_class, folder, config)
    check_loaded(folder, model, report["missing_keys"])
    return model.requires_grad_(False).eval()


def check_image_size(pixels: object, image_size: int, *, size: object, where: str) -> None:
    """Check that the preprocessor scales images to the size that the model expects; it may leave the size out.

    Raises:
        BaseModelError: It scales them to another size.
    """
    if pixels is not None and pixels != image_size:
        raise BaseModelError(
            f"{where}: size is {str(size)[:80]}, and config.json next to it has an image_size of {image_size}: they do "
            "not belong together"
        )


def _preprocessor(folder: Path) -> Mapping[str, Any]:
    """Return the content of ``preprocessor_config.json`` if it exists, and its normalisation is the one used here."""
    file = folder / PREPROCESSOR
    if not file.is_file():
        return {}
    values = read_object_file(file, error=BaseModelError, limit=LIMITS[PREPROCESSOR])
    check_normalisation(values, where=str(file))
    return values

"""Load the base of a detector from untrusted files, for the classes of a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.config.students import MAX_SIDE
from engine.errors import BaseModelError
from engine.models.base_files import check_loaded, load_weights, read_config, refuse_unloadable
from engine.storage.base_model_identity import LIMITS, PREPROCESSOR
from engine.text.plain_json import read_object_file

Report = Mapping[str, Any]
"""The library's report of missing and other weights."""


def class_settings(classes: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a configuration that follow from the classes."""
    names = dict(enumerate(classes))
    return {"id2label": names, "label2id": {name: index for index, name in names.items()}}


def image_size_of(folder: Path) -> tuple[int, int] | None:
    """Return height and width that a base scales images to; None if it does not say so.

    Raises:
        BaseModelError: Its preprocessing is not a JSON object, or its size not two numbers of pixels.
    """
    file = folder / PREPROCESSOR
    if not file.is_file():
        return None
    size = read_object_file(file, error=BaseModelError, limit=LIMITS[PREPROCESSOR]).get("size")
    if size is None:
        return None
    sides = [size.get(name) for name in ("height", "width")] if isinstance(size, dict) else []
    known = [side for side in sides if type(side) is int and 0 < side <= MAX_SIDE]
    if len(known) != 2:
        raise BaseModelError(
            f"{file}: size is {str(size)[:80]}, but it must be an object with height and width, 1 to {MAX_SIDE} pixels"
        )
    return known[0], known[1]


def load_with_settings(library: Any, folder: Path, *, title: str, values: Mapping[str, Any]) -> tuple[Any, Report]:
    """Return the model of a folder with changed settings, in 32 bit on the CPU; weights that do not fit are random.

    Args:
        library: Class of transformers.
        folder: Folder of the model.
        title: Name of the kind of model in the error.
        values: Changed settings of its configuration.

    Raises:
        BaseModelError: The folder holds no such model that can be loaded.
    """
    kind: Any = library.config_class
    with refuse_unloadable(folder, title):
        read_config(folder, [kind.model_type])
        config = kind.from_pretrained(folder, local_files_only=True)
        for name, value in values.items():
            setattr(config, name, value)
        return load_weights(library, folder, config, ignore_mismatched_sizes=True)


def check_heads_alone_differ(
    folder: Path, model: Any, report: Report, *, heads: Sequence[str], added: Sequence[str] = ()
) -> None:
    """Check that only heads for other classes, and parts that a base may lack, have random weights.

    Args:
        folder: Folder of the model.
        model: The loaded model.
        report: See :func:`load_with_settings`.
        heads: Parts of names of parameters that depend on the classes.
        added: Parts of names of parameters that may be missing.

    Raises:
        BaseModelError: Other weights are missing, or do not fit.
    """
    missing = [name for name in report["missing_keys"] if not any(head in name for head in (*heads, *added))]
    other = [str(one[0]) for one in report["mismatched_keys"] if not any(head in str(one[0]) for head in heads)]
    check_loaded(folder, model, [*missing, *other])

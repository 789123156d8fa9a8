"""Read and check a PEFT ``adapter_config.json``: every field must be one that is supported here.

PEFT treats strings as regular expressions, changes weights of the base for some initializations (``olora``,
``pissa``), and imports modules that a file names. So the file is never passed to it: fields that we write are read, all
others must have their neutral value, and module names are compared with those of the model, as plain names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import LoraSettings
from engine.errors import BaseModelError
from engine.layout import ADAPTER_CONFIG
from engine.registry import transformers_classes
from engine.text.plain_json import read_object_file

NEUTRAL: tuple[object, ...] = (None, False, {}, [])
"""Values that request nothing, for any field."""

ALLOWED: Mapping[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian"),
    "inference_mode": (True, False),
    "megatron_core": ("megatron.core", None),
    "qalora_group_size": (16, None),
}
"""Allowed values of fields with another neutral value. The initialization of an adapter does not matter once its
tensors are loaded, unless the base was changed for it."""

TEXTS = frozenset({"base_model_name_or_path", "revision", "peft_version"})
"""Fields that record the origin of an adapter, and change nothing."""

OURS = frozenset({"r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save"})
"""Fields that are read here."""

MOST_TARGETS = 10_000


@dataclass(frozen=True)
class AdapterConfig:
    """Fields of the file that determine how an adapter is applied.

    Attributes:
        rank: r of the update BA.
        dropout: Dropout before A, in training.
        targets: One string, or names or name suffixes of modules, as in PEFT.
        trained_modules: Names of modules that are trained completely.
    """

    rank: int
    dropout: float
    targets: str | tuple[str, ...]
    trained_modules: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path, lora: LoraSettings, *, strength: float) -> AdapterConfig:
        """Read the file in an adapter's folder.

        Args:
            folder: Folder of the adapter.
            lora: Settings in ``teacher.json`` next to it.
            strength: Strength in ``teacher.json``.

        Raises:
            FileNotFoundError: It is missing.
            BaseModelError: A field is unknown, has an unsupported value, or contradicts ``teacher.json``.
        """
        path = folder / ADAPTER_CONFIG
        values = read_object_file(path, error=BaseModelError)
        for name, value in values.items():
            if not _is_harmless(name, value):
                raise BaseModelError(f"{path}: {_refused(name, value)}")
        alpha = scaled_alpha(lora, strength)
        for name, expected in (("r", lora.rank), ("lora_alpha", alpha)):
            found = values.get(name)
            if isinstance(found, bool) or not isinstance(found, int | float) or found != expected:
                raise BaseModelError(
                    f"{path}: {name} is {_shown(found)}, and {expected} in teacher.json next to it: fetch the adapter "
                    "again, or train it once more"
                )
        dropout = values.get("lora_dropout", 0.0)
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise BaseModelError(f"{path}: lora_dropout is {_shown(dropout)}, which is not a number from 0 to below 1")
        targets = _targets(path, values.get("target_modules"))
        trained = _names(values.get("modules_to_save") or [])
        if trained is None:
            raise BaseModelError(
                f"{path}: modules_to_save is {_shown(values['modules_to_save'])}, not a list of the names of modules"
            )
        return cls(lora.rank, float(dropout), targets, trained)


def scaled_alpha(lora: LoraSettings, strength: float) -> float:
    """Return ``lora_alpha`` of an adapter of this strength; PEFT's own type if it is whole."""
    alpha = strength * lora.alpha
    return int(alpha) if alpha == int(alpha) else alpha


def named_by(targets: Iterable[str], modules: Iterable[str]) -> set[str]:
    """Return the modules that PEFT selects for a list of names: exact names, and names that end with one of them."""
    ends = frozenset(targets)
    found = set()
    for module in modules:
        parts = module.split(".")
        if any(".".join(parts[start:]) in ends for start in range(len(parts))):
            found.add(module)
    return found


def _is_harmless(name: str, value: object) -> bool:
    if name in OURS:
        return True
    if name in TEXTS:
        return value is None or (isinstance(value, str) and len(value) <= 4096)
    if name in ALLOWED:
        return any(type(value) is type(one) and value == one for one in ALLOWED[name])
    if name == "auto_mapping" and isinstance(value, dict):  # plain PEFT writes the class of the base
        library = str(value.get("parent_library", ""))
        return value.get("base_model_class") in transformers_classes() and library.startswith("transformers.models.")
    return any(type(value) is type(one) and value == one for one in NEUTRAL)


def _refused(name: str, value: object) -> str:
    allowed = ALLOWED.get(name, (None,))
    expected = " or ".join(_shown(one) for one in allowed)
    return (
        f"{name} is {_shown(value)}, which is not supported (only {expected}): such an adapter would not be what was "
        "trained, or would change its base"
    )


def _targets(path: Path, value: Any) -> str | tuple[str, ...]:
    if isinstance(value, str) and value:
        return value
    if names := _names(value):
        return names
    raise BaseModelError(f"{path}: target_modules is {_shown(value)}, not a list of the names of modules")


def _names(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, list) and len(value) <= MOST_TARGETS and all(isinstance(one, str) for one in value):
        return tuple(value)
    return None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"

"""Arguments of the public functions: paths, mappings and names, checked and turned into sections of the spec."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from engine.errors import ConfigError
from engine.layout import ADAPTER
from engine.spec import DatasetSpec, StorageSpec, TeacherName
from engine.storage import Storage, StorageOptions
from engine.text.pydantic_errors import nearest, parse

Fields = Mapping[str, Any]
"""Fields of a part of the spec by their Python names: ``{"name": "Sam", "base_model": "bases/sam"}``."""


E = TypeVar("E", bound=StrEnum)


def open_storage(storage: StorageSpec | Fields | None) -> Storage:
    """Return the access to object storage that a section ``storage`` of the spec describes."""
    spec = parse(StorageSpec, storage or {}, where="storage", by_name=True)
    return Storage(StorageOptions(**spec.model_dump()))


def choice_of(kind: type[E], value: str, name: str) -> E:
    """Return a member of an enum by its value."""
    try:
        return kind(value)
    except ValueError:
        raise ConfigError(
            f"{name}: {value!r} is not allowed{nearest(str(value), [one.value for one in kind])}"
        ) from None


def dataset_fields(data: str | Path | DatasetSpec | Fields, images: str | Path | None) -> DatasetSpec | Fields:
    """Return the section ``dataset`` of the spec."""
    section = {"annotations": str(data)} if isinstance(data, str | Path) else data
    if images is None:
        return section
    fields = section.model_dump(exclude_unset=True) if isinstance(section, DatasetSpec) else section
    return {**fields, "images": str(images)}


def teacher_fields(teachers: Any) -> Any:
    """Return the list ``teachers`` of the spec; anything but a list is left to validation."""
    if not isinstance(teachers, list | tuple):
        return teachers
    return [{"name": one} if isinstance(one, str) else one for one in teachers]


def artifact_fields(formats: Any) -> Any:
    """Return the list ``optimize`` of the spec; anything but a list is left to validation."""
    if not isinstance(formats, list | tuple):
        return formats
    return [{"format": str(one)} if isinstance(one, str) else one for one in formats]


def yaml_text(value: Any) -> str:
    """Return the YAML text of a setting: text as it is, other values as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def adapter_folder(adapter: str | Path) -> str:
    """Return the folder of an adapter that may be given by its file, as ``result.adapter.uri`` is."""
    folder, slash, file = str(adapter).rpartition("/")
    if file == ADAPTER:
        return folder or slash or "."
    return str(adapter)


def teacher_name(name: str) -> TeacherName:
    """Return the registered teacher of a name in ``base_model``."""
    try:
        return TeacherName(name)
    except ValueError as error:
        raise ConfigError(f"base_model: {error}") from None

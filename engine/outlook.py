"""What a planned run will need of a GPU, told before there is one. Without torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.config import RunConfig, SamSettings, TeacherSettings
from engine.dataset.types import DatasetInfo
from engine.errors import ConfigError, TeacherError
from engine.fit import base_of, encoder_layers, is_sam, options, shown
from engine.preprocessing import GroundingDinoTransform
from engine.results import MemoryNeed
from engine.storage import Storage, is_remote, join


def needs(config: RunConfig, info: DatasetInfo, storage: Storage) -> Iterator[MemoryNeed]:
    """Of each teacher whose base is known, in bfloat16."""
    for name in config.teachers.names:
        settings = config.teachers.of(name)
        assert settings is not None  # noqa: S101 - it is one of the names
        base, transform = find_base(settings, storage)
        if base is None:
            continue
        ways = list(options(base, settings, shown(info, settings, transform), bfloat16=True))
        if ways:
            least = min(way.memory_bytes for way in ways)
            yield MemoryNeed(teacher=name, memory_bytes=ways[0].memory_bytes, least_memory_bytes=least)


def check_layers(config: RunConfig, storage: Storage) -> None:
    """See that no more layers are skipped than the encoder has, where the base is known; else the trainer will tell.

    Raises:
        ConfigError: There are not so many.
    """
    for name in config.teachers.names:
        settings = config.teachers.of(name)
        if settings is None or not settings.lora.skip_layers:
            continue
        base, _ = find_base(settings, storage)
        if base is not None and settings.lora.skip_layers > encoder_layers(base):
            raise ConfigError(
                f"teachers.{name.slug}.lora.skip_layers is {settings.lora.skip_layers}, and the encoder of "
                f"{settings.base_model} has {encoder_layers(base)} layers: skip at most so many"
            )


def find_base(settings: TeacherSettings, storage: Storage) -> tuple[str | None, GroundingDinoTransform | None]:
    """Which known base a teacher has, by its ``config.json`` if it lies in a folder or bucket, and its image size."""
    name = settings.base_model
    folder = Path(name).expanduser()
    if not is_remote(name) and not folder.is_dir():
        return _of_kind(base_of(name), settings), None
    where = name if is_remote(name) else str(folder)
    config = _read(join(where, "config.json"), storage)
    size = _read(join(where, "preprocessor_config.json"), storage).get("size")
    size = size if isinstance(size, dict) else {}
    edges = {edge: int(size[edge]) for edge in ("shortest_edge", "longest_edge") if edge in size}
    base = base_of(name, config) if config else None
    return _of_kind(base, settings), GroundingDinoTransform(**edges) if edges else None


def _of_kind(base: str | None, settings: TeacherSettings) -> str | None:
    return base if base is not None and is_sam(base) == isinstance(settings, SamSettings) else None


def _read(uri: str, storage: Storage) -> dict[str, Any]:
    """Nothing if it is not there, or wrong: the trainer will tell."""
    try:
        content = json.loads(storage.read_bytes(uri))
    except (TeacherError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}

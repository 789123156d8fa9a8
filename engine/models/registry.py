"""Classes of the registered teachers and students, imported when they are first needed; see :mod:`engine.registry`."""

from __future__ import annotations

from typing import Any

from engine.registry import ModelName


class _Classes(dict[ModelName, Any]):
    def __missing__(self, name: ModelName) -> Any:
        return self.setdefault(name, name.traits.load_class())


REGISTRY = _Classes()
"""Class of each teacher and student."""

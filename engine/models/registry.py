"""Classes of the registered teachers, imported when they are first needed; see :mod:`engine.registry`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.spec import TeacherName

if TYPE_CHECKING:
    from engine.models.base import Teacher


class _Classes(dict[TeacherName, "type[Teacher]"]):
    def __missing__(self, name: TeacherName) -> type[Teacher]:
        loaded: type[Teacher] = name.traits.load_class()
        return self.setdefault(name, loaded)


REGISTRY = _Classes()
"""Class of each teacher."""

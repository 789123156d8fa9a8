"""Teachers by name. A new teacher is one package under ``engine/teachers`` with a class marked ``@register``."""

from __future__ import annotations

from importlib import import_module

from engine.models.base import Teacher
from engine.spec import TeacherName

REGISTRY: dict[TeacherName, type[Teacher]] = {}


def register(teacher: type[Teacher]) -> type[Teacher]:
    """Register a teacher under its name (class decorator)."""
    REGISTRY[teacher.name] = teacher
    return teacher


def teacher_classes() -> dict[TeacherName, type[Teacher]]:
    """Return all registered teachers; those of the engine are imported first."""
    import_module("engine.teachers")
    return REGISTRY

"""The students: small models that are trained for one dataset, and how to load them.

Names are imported when they are first used, so that this package and the traits of students need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.models.student import Student
    from engine.students.dfine.model import DFine
    from engine.students.load import find_student, load_student, local_student

__all__ = ["DFine", "Student", "find_student", "load_student", "local_student"]

_MODULES = {
    "engine.models.student": ("Student",),
    "engine.students.dfine.model": ("DFine",),
    "engine.students.load": ("find_student", "load_student", "local_student"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

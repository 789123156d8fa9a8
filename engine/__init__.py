"""LoRA-tunes vision teachers on COCO data, and trains small students.

Knows nothing of Kubernetes; imports without torch.

The public functions are imported when they are first used: see :mod:`engine.api`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from engine.processes.threads import set_thread_defaults

if TYPE_CHECKING:
    from engine.api import distill, evaluate, fine_tune, inspect_dataset, label, load_adapted, load_student, optimize

__version__ = "0.1.0"
__all__ = ["distill", "evaluate", "fine_tune", "inspect_dataset", "label", "load_adapted", "load_student", "optimize"]

set_thread_defaults()  # here, since the next import may load torch


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("engine.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

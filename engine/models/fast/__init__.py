"""Faster layers that replace those of transformers and PEFT; results are the same up to rounding.

The environment variable ``TEACHER_FAST_LAYERS=0`` turns all of them off, to compare with the libraries' own layers.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

SWITCH = "TEACHER_FAST_LAYERS"


def replace_forward(model: nn.Module, forward: Callable[..., Any], *, where: Callable[[nn.Module], bool]) -> None:
    """Replace the forward method of modules, in place, unless faster layers are turned off.

    Args:
        model: Model whose modules are replaced.
        forward: Called with the module, its own forward method, and the arguments of the call.
        where: Selects the modules.
    """
    if os.environ.get(SWITCH) == "0":
        return
    for module in model.modules():
        if where(module):
            module.forward = partial(forward, module, module.forward)

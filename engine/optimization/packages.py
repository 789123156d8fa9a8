"""Import the packages of the extra ``optimize``, with advice where they are missing."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from importlib.metadata import version
from typing import Any

from engine.errors import ConfigError


def require(module: str) -> Any:
    """Import and return a module of a package in the extra ``optimize``.

    Raises:
        ConfigError: It is not installed.
    """
    package = module.partition(".")[0]
    if package in ("nncf", "openvino"):
        # Both send events to their makers without consent where this package is found; without it they do not.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        found = import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"exported models need {package} ({error}): pip install 'teacher-finetune[train,optimize]'"
        ) from None
    if package == "nncf":
        logging.getLogger("nncf").setLevel(logging.ERROR)  # it lists every node that stays in float
    return found


def version_of(package: str) -> str:
    """Return the version of an installed package."""
    return version(package)

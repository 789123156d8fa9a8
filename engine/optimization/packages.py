"""Import the packages of the extra ``optimize``, with advice where they are missing."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from engine.errors import ConfigError

MISSING = "exported models need {} ({}): pip install 'teacher-finetune[train,optimize]'"


def check_installed(modules: Iterable[str]) -> None:
    """See that modules can be found, without importing them.

    Raises:
        ConfigError: One is not installed.
    """
    for module in modules:
        if find_spec(module) is None:
            raise ConfigError(MISSING.format(module, "it is not installed"))


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
        raise ConfigError(MISSING.format(package, error)) from None
    if package == "nncf":
        logging.getLogger("nncf").setLevel(logging.ERROR)  # it lists every node that stays in float
    return found


def version_of(package: str) -> str:
    """Return the version of an installed package."""
    return version(package)

"""Import the packages of the extra ``optimize``, with advice where they are missing."""

from __future__ import annotations

import logging
import os
from importlib import import_module
from importlib.metadata import version
from typing import Any

from engine.errors import ConfigError


def require(module: str) -> Any:
    """Import and return a module of a package in the extra ``optimize``.

    Raises:
        ConfigError: It is not installed.
    """
    if module.partition(".")[0] == "nncf":
        os.environ.setdefault("NNCF_CI", "1")  # else it sends events to its makers, without consent
        logging.getLogger("nncf").setLevel(logging.ERROR)
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"exported models need {module.partition('.')[0]} ({error}): pip install 'teacher-finetune[train,optimize]'"
        ) from None


def version_of(package: str) -> str:
    """Return the version of an installed package."""
    return version(package)

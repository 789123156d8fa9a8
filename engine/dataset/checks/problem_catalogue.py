"""Catalogue of the problems of a dataset, from ``problems.yaml``: severity, meaning, advice, and what is left out."""

from __future__ import annotations

from importlib import resources
from typing import Any, NamedTuple

from engine.dataset.types import Severity
from engine.text.plain_yaml import read_document


class Kind(NamedTuple):
    """A kind of problem: its severity, its meaning and the advice, each as a sentence."""

    severity: Severity
    message: str
    advice: str


def _read() -> dict[str, dict[str, Any]]:
    name = "problems.yaml"
    text = resources.files("engine.dataset.checks").joinpath(name).read_text(encoding="utf-8")
    catalogue: dict[str, dict[str, Any]] = read_document(text, where=name).value
    return catalogue


def _with(field: str, value: object) -> frozenset[str]:
    return frozenset(code for code, kind in _KINDS.items() if kind.get(field) == value)


_KINDS = _read()

CATALOGUE = {code: Kind(Severity[k["severity"].upper()], k["message"], k["advice"]) for code, k in _KINDS.items()}

IMAGES_LEFT_OUT = _with("leaves_out", "images")
"""Problems of images that are left out."""

OBJECTS_LEFT_OUT = _with("leaves_out", "annotations")
"""Problems of annotations that are left out; each counts as one annotation."""

SEEN_WHEN_OPENED = _with("when_opened", True)
"""Problems of left-out images that show only when an image is opened: in validation and in training."""

REPAIRED = _with("repaired", True)
"""Problems of annotations that are repaired and used."""

COPIES = "duplicate_object"
"""Problem of annotations that are left out without loss; their number is not limited."""

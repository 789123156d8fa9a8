"""Licences of what a trained model is made of: code, base weights and labels."""

from __future__ import annotations

from pydantic import Field

from engine.registry import ModelName
from engine.results.metrics import Result
from engine.results.types import TeacherResult
from engine.traits import RANDOM_WEIGHTS


class Licences(Result):
    """Licences behind a trained model, each as a sentence. Its own licence is the decision of its owner."""

    code: str = Field(description="SPDX id of the licence of the model's code.")
    weights: str = Field(description="Licence of the weights that training began with.")
    labels: str = Field(description="Source of the labels, with the licences of teachers.")


def licences_of(result: TeacherResult) -> Licences:
    """Return the licences behind a trained model."""
    traits = result.teacher.traits
    labels = "human labels: as the owner of the dataset states"
    if result.labelled_images:
        teacher = "teachers" if result.reference is None else _described(result.reference.teacher)
        labels += f"; {result.labelled_images:,} training images with labels of {teacher}"
    return Licences(code=traits.licence, weights=_weights(result.teacher, result.base_model), labels=labels)


def _weights(name: ModelName, base_model: str) -> str:
    if base_model == RANDOM_WEIGHTS:
        return "none: training began with random weights"
    known = next((base.licence for base in name.traits.published if base.name == base_model), None)
    return f"{base_model}: {known or 'not known here, see its source'}"


def _described(teacher: ModelName) -> str:
    return f"{teacher.traits.title} (code: {teacher.traits.licence})"

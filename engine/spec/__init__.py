"""The user's request: the ``spec`` of a ``TeacherFineTune`` without settings for clusters only.

One typed definition feeds the command line, the manifest and the CRD. Names are camelCase in manifests and
snake_case in Python. Decimal numbers are strings instead of floats, as recommended for Kubernetes APIs.
Unset values follow from the data (see :mod:`engine.config`).
"""

from __future__ import annotations

from engine.registry import TeacherName
from engine.spec.augmentation import (
    AugmentationSpec,
    Background,
    Characteristic,
    EnvironmentSpec,
    Intensity,
    Lighting,
    Motion,
    Viewpoint,
    Weather,
)
from engine.spec.base import DecimalString, Dropout, LearningRate, SettingPath, SettingValue, SpecModel, Uri
from engine.spec.dataset import Crowds, DatasetSpec, ExifOrientation, GroupBy, OnProblem, SplitFilesSpec, SplitSpec
from engine.spec.optimize import ArtifactFormat, ArtifactSpec
from engine.spec.request import SETTING_GROUPS, FineTuneSpec
from engine.spec.storage import AddressingStyle, StorageSpec
from engine.spec.teacher import LoraPreset, LoraSpec, TeacherSpec
from engine.spec.training import EarlyStoppingSpec, OnNoGain, Precision, RetentionSpec, SweepSpec, TrainingSpec

__all__ = [
    "SETTING_GROUPS",
    "AddressingStyle",
    "ArtifactFormat",
    "ArtifactSpec",
    "AugmentationSpec",
    "Background",
    "Characteristic",
    "Crowds",
    "DatasetSpec",
    "DecimalString",
    "Dropout",
    "EarlyStoppingSpec",
    "EnvironmentSpec",
    "ExifOrientation",
    "FineTuneSpec",
    "GroupBy",
    "Intensity",
    "LearningRate",
    "Lighting",
    "LoraPreset",
    "LoraSpec",
    "Motion",
    "OnNoGain",
    "OnProblem",
    "Precision",
    "RetentionSpec",
    "SettingPath",
    "SettingValue",
    "SpecModel",
    "SplitFilesSpec",
    "SplitSpec",
    "StorageSpec",
    "SweepSpec",
    "TeacherName",
    "TeacherSpec",
    "TrainingSpec",
    "Uri",
    "Viewpoint",
    "Weather",
]

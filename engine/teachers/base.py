"""What training, evaluation and labelling need of a teacher, and the registry of those there are."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.config import LoraSettings
from engine.dataset.types import CocoAnnotation, Detections, Frame, Sample
from engine.errors import ConfigError
from engine.spec import TeacherName
from engine.teachers.feature_cache import FeatureCache

Example = dict[str, Any]
"""One preprocessed training example: CPU tensors and plain values; picklable, so that workers can send it."""

Batch = dict[str, Any]
"""Collated examples; tensors lie directly in the mapping or in lists and mappings inside it."""


@dataclass(frozen=True)
class LoraTargets:
    """Which modules a preset adapts.

    Attributes:
        target_modules: Regular expression that PEFT matches against whole module names.
        exclude_modules: Regular expression of those never adapted: tied heads, which LoRA would silently untie.
        earlier: What earlier versions had for ``target_modules``, and adapters that they made still have.
    """

    target_modules: str
    exclude_modules: str | None = None
    earlier: tuple[str, ...] = ()


class Teacher(ABC):
    """A base model, perhaps with an adapter, and how images and losses go in and out of it.

    ``model`` is a transformers model; :mod:`engine.teachers.lora` wraps it by PEFT in place. All randomness comes
    from the generators that are handed in.
    """

    name: ClassVar[TeacherName]
    iou_type: ClassVar[Literal["bbox", "segm"]]
    needs_masks: ClassVar[bool]
    pads: ClassVar[bool] = False
    """Whether images of a batch are padded to each other, so that it costs less if they have like shapes."""
    recomputable: ClassVar[Mapping[str, str]] = {}
    """Groups of layers that need not keep their activations, by name: a regular expression of whole module names."""

    model: nn.Module
    classes: tuple[str, ...]

    frame: Frame = Frame.UPRIGHT
    """How it was shown images in training that EXIF turns."""

    features: FeatureCache | None = None
    """Where what :meth:`frozen` tells of is kept; None: it is computed each time."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, *, classes: Sequence[str], prompts: Mapping[str, str], settings: Any) -> Self:
        """Load the base model from a local folder, on the CPU, in 32 bit, all parameters frozen, in eval mode.

        Args:
            folder: A transformers model folder (``config.json``, ``model.safetensors``, …).
            classes: Class names; their order is the order of class indices.
            prompts: Better phrases for some of them.
            settings: The teacher's part of the configuration.

        Raises:
            BaseModelError: The folder holds no model of this kind.
            ConfigError: The classes cannot be prompted for.
        """

    @abstractmethod
    def lora_targets(self, lora: LoraSettings) -> LoraTargets:
        """The modules that are adapted.

        Raises:
            ConfigError: The encoder has fewer layers than are to be skipped.
        """

    def frozen(self) -> dict[str, str] | None:
        """What the features of an image follow from, beside the image and the weights: how far the model goes before
        its first adapted layer, and how it is shown the image. None if nothing comes before that is worth keeping.
        """
        return None

    def select(self, annotations: Sequence[CocoAnnotation], visit: int) -> NDArray[np.int64] | None:
        """Which objects of a training image are shown when it has been shown ``visit`` times before.

        Returns:
            Their positions in ``annotations``; None for all.
        """
        return None

    @abstractmethod
    def example(self, sample: Sample, rng: np.random.Generator) -> Example:
        """Preprocess one (augmented) sample for training; crowds are never targets."""

    @abstractmethod
    def collate(self, examples: Sequence[Example]) -> Batch:
        """Stack examples into a batch, padded to a common size."""

    @abstractmethod
    def count(self, batch: Batch) -> float:
        """How many objects the loss of ``batch`` is averaged over (may be 0)."""

    @abstractmethod
    def loss(self, batch: Batch, *, count: float) -> dict[str, Tensor]:
        """Forward pass and loss.

        Losses are sums over the batch divided by ``count``, the number of objects of the whole optimizer step (over
        accumulated batches and processes, at least 1): so gradients do not depend on how a step is cut.

        Returns:
            ``"loss"``, the weighted total as a 32-bit scalar with gradient, and its parts, detached.
        """

    @abstractmethod
    def predict(self, samples: Sequence[Sample]) -> list[Detections]:
        """Detect in original images; SAM takes the samples' boxes as prompts and keeps their classes and order
        of prompts before sorting by score.
        """

    def asking(self, classes: Sequence[str], prompts: Mapping[str, str] | None = None) -> Self:
        """The same model, adapter and all, asked for other classes: nothing of it is copied.

        Args:
            classes: Class names in the order of class indices.
            prompts: Better phrases for some of them.

        Raises:
            ConfigError: The classes cannot be prompted for.
        """
        other = copy.copy(self)
        other.features = None  # they may follow from the caption
        other.classes = tuple(classes)
        return other

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.model.parameters()).device


REGISTRY: dict[TeacherName, type[Teacher]] = {}
"""Teachers by name. A new teacher is one file with a class marked ``@register``."""


def register(teacher: type[Teacher]) -> type[Teacher]:
    """Class decorator: make a teacher known under its name."""
    REGISTRY[teacher.name] = teacher
    return teacher


def to_device(value: Any, device: torch.device) -> Any:
    """A batch with its tensors on ``device``."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_device(item, device) for item in value)
    return value


def frozen_before(layers: Collection[nn.Module]) -> int:
    """How many layers come before the first that has something to train; all of them if none has."""
    adapted = (i for i, layer in enumerate(layers) if any(p.requires_grad for p in layer.parameters()))
    return next(adapted, len(layers))


def later_layers(skipped: int, layers: int) -> str:
    r"""A regular expression of the numbers of those layers of ``layers`` that come after the first ``skipped``.

    Raises:
        ConfigError: There are not so many.

    >>> print(later_layers(4, 6), later_layers(0, 6))
    (4|5) \d+
    """
    if skipped > layers:
        raise ConfigError(f"lora.skip_layers is {skipped}, and the encoder has {layers} layers: skip at most so many")
    if not skipped:
        return r"\d+"
    return f"({'|'.join(map(str, range(skipped, layers))) or '(?!)'})"

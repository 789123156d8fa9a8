"""Interface of a teacher for training, evaluation and labelling, and the registry of teachers."""

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
from engine.models.feature_cache import FeatureCache
from engine.registry import TeacherTraits
from engine.spec import TeacherName

Example = dict[str, Any]
"""One preprocessed training example: CPU tensors and plain values; picklable, so that workers can send it."""

Batch = dict[str, Any]
"""Collated examples; tensors lie directly in the mapping or in lists and mappings inside it."""


@dataclass(frozen=True)
class LoraTargets:
    """Modules that a preset adapts.

    Attributes:
        target_modules: Regular expression that PEFT matches against whole module names.
        exclude_modules: Regular expression of modules that are never adapted: tied heads, which LoRA would silently
            untie.
        trained_modules: Regular expression of the names of small modules that are trained completely (PEFT's
            ``modules_to_save``).
        earlier: Values of ``target_modules`` in earlier versions, which their adapters still contain.
    """

    target_modules: str
    exclude_modules: str | None = None
    trained_modules: str | None = None
    earlier: tuple[str, ...] = ()


class Teacher(ABC):
    """A base model, with or without an adapter, with its preprocessing, loss and prediction.

    ``model`` is a transformers model; :mod:`engine.models.lora` wraps it by PEFT in place. All randomness comes
    from the generators that are passed in.
    """

    traits: ClassVar[TeacherTraits]
    name: ClassVar[TeacherName]
    """This and the next two follow from :attr:`traits`."""
    iou_type: ClassVar[Literal["bbox", "segm"]]
    needs_masks: ClassVar[bool]
    pads: ClassVar[bool] = False
    """Whether images of a batch are padded to a common size: batches of similar shapes then cost less."""
    recomputable: ClassVar[Mapping[str, str]] = {}
    """Groups of layers that can recompute their activations; values are regular expressions of whole module names."""

    model: nn.Module
    classes: tuple[str, ...]

    frame: Frame = Frame.UPRIGHT
    """Frame of EXIF-rotated images in training."""

    features: FeatureCache | None = None
    """Cache of the outputs of the frozen layers (see :meth:`frozen`); None: they are computed each time."""

    def __init_subclass__(cls) -> None:
        """Set what follows from the traits of a teacher."""
        if (traits := vars(cls).get("traits")) is not None:
            cls.name = TeacherName(traits.name)
            cls.iou_type, cls.needs_masks = traits.iou_type, traits.needs_masks

    @classmethod
    def convert_original(cls, file: Path, folder: Path) -> None:
        """Convert a checkpoint with ``traits.original_suffix`` to a folder that :meth:`load` takes.

        Raises:
            BaseModelError: The file is not such a checkpoint.
        """
        raise NotImplementedError

    def export_original(self, file: Path, *, path: Path) -> str:
        """Merge the adapter into the base, write such a checkpoint, and return Python that loads it from ``path``.

        Raises:
            BaseModelError: The authors' code has no model of this size.
        """
        raise NotImplementedError

    def caption_tokens(self) -> int:
        """Return the tokens of the longest caption; 0 for a teacher without captions."""
        return 0

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, *, classes: Sequence[str], prompts: Mapping[str, str], settings: Any) -> Self:
        """Load the base model from a local folder, on the CPU, in 32 bit, all parameters frozen, in eval mode.

        Args:
            folder: A transformers model folder (``config.json``, ``model.safetensors``, …).
            classes: Class names; their order is the order of class indices.
            prompts: Better phrases for some of them.
            settings: The teacher's section of the configuration.

        Raises:
            BaseModelError: The folder does not hold a model of this kind.
            ConfigError: The classes cannot be prompted for.
        """

    @abstractmethod
    def lora_targets(self, lora: LoraSettings) -> LoraTargets:
        """Return the modules to adapt.

        Raises:
            ConfigError: The encoder has fewer layers than ``skip_layers``.
        """

    def frozen(self) -> dict[str, str] | None:
        """Return all that determines the cached features besides image and weights.

        This is the number of layers before the first adapted one, and the preprocessing. None if no frozen layers
        come first, or caching them saves little.
        """
        return None

    def select(self, annotations: Sequence[CocoAnnotation], visit: int) -> NDArray[np.int64] | None:
        """Select the objects of a training image that has been used ``visit`` times before.

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
        """Return the number of objects that the loss of ``batch`` is averaged over (may be 0)."""

    @abstractmethod
    def loss(self, batch: Batch, *, count: float) -> dict[str, Tensor]:
        """Forward pass and loss.

        Losses are sums over the batch divided by ``count``, the number of objects of the whole optimizer step (over
        accumulated batches and processes, at least 1): so gradients do not depend on how a step is divided.

        Returns:
            ``"loss"``, the weighted total as a 32-bit scalar with gradient, and its parts, detached.
        """

    @abstractmethod
    def predict(self, samples: Sequence[Sample]) -> list[Detections]:
        """Detect in original images; a teacher that is prompted takes the samples' boxes as prompts and keeps their
        classes.
        """

    def asking(self, classes: Sequence[str], prompts: Mapping[str, str] | None = None) -> Self:
        """Return a teacher with the same model and adapter for other classes; no tensors are copied.

        Args:
            classes: Class names in the order of class indices.
            prompts: Better phrases for some of them.

        Raises:
            ConfigError: The classes cannot be prompted for.
        """
        other = copy.copy(self)
        other.features = None  # they may depend on the caption
        other.classes = tuple(classes)
        return other

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.model.parameters()).device


def to_device(value: Any, device: torch.device) -> Any:
    """Return a batch with its tensors on ``device``."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_device(item, device) for item in value)
    return value


def frozen_before(layers: Collection[nn.Module]) -> int:
    """Count the layers before the first with trainable parameters; all of them if none has any."""
    adapted = (i for i, layer in enumerate(layers) if any(p.requires_grad for p in layer.parameters()))
    return next(adapted, len(layers))


def later_layers(skipped: int, layers: int) -> str:
    r"""Return a regular expression of the numbers of all layers after the first ``skipped``.

    Raises:
        ConfigError: There are fewer layers.

    >>> print(later_layers(4, 6), later_layers(0, 6))
    (4|5) \d+
    """
    if skipped > layers:
        raise ConfigError(f"lora.skip_layers is {skipped}, and the encoder has {layers} layers: skip at most so many")
    if not skipped:
        return r"\d+"
    return f"({'|'.join(map(str, range(skipped, layers))) or '(?!)'})"

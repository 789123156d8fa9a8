"""Interface of models for training, evaluation and prediction: what teachers and students share."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.config import ModelSettings
from engine.dataset.types import CocoAnnotation, Detections, Frame, Sample
from engine.errors import ConfigError
from engine.models.feature_cache import FeatureCache
from engine.registry import ModelName
from engine.traits import ModelTraits

if TYPE_CHECKING:
    from engine.models.graphs import Graph

Example = dict[str, Any]
"""One preprocessed training example: CPU tensors and plain values; picklable, so that workers can send it."""

Batch = dict[str, Any]
"""Collated examples; tensors lie directly in the mapping or in lists and mappings inside it."""


@dataclass(frozen=True)
class Origin:
    """Facts about a training that are saved next to the weights.

    Attributes:
        base_revision: Commit of a hub model, sha256 of the weights of any other.
        base_sha256: sha256 of the weights of the base.
        base_parts: sha256 of its other files.
        classes: Class names in the order of class indices.
        prompts: Phrases shown instead of class names.
        settings: The model's section of the configuration.
        frame: Frame of EXIF-rotated images in training.
        strength: Scale of an adapter's update, 0 to 1.
    """

    base_revision: str
    base_sha256: str
    base_parts: Mapping[str, str]
    classes: tuple[str, ...]
    prompts: Mapping[str, str]
    settings: ModelSettings
    frame: Frame
    strength: float = 1.0


class Model(ABC):
    """A model with its preprocessing, loss and prediction: a teacher or a student.

    ``model`` is a transformers model. All randomness comes from the generators that are passed in, or in a training
    step from torch's global one, which the loop seeds by the step.

    Training changes the tensors of :meth:`training_tensors`; those of :meth:`result_tensors` are evaluated and
    published.
    """

    traits: ClassVar[ModelTraits]
    name: ClassVar[ModelName]
    """This and the next two follow from :attr:`traits`."""
    iou_type: ClassVar[Literal["bbox", "segm"]]
    needs_masks: ClassVar[bool]
    pads: ClassVar[bool] = False
    """Whether images of a batch are padded to a common size: batches of similar shapes then cost less."""
    recomputable: ClassVar[Mapping[str, str]] = {}
    """Groups of layers that can recompute their activations; values are regular expressions of whole module names."""
    weights_file: ClassVar[str]
    """File that :meth:`save` writes the weights to."""

    model: nn.Module
    classes: tuple[str, ...]

    frame: Frame = Frame.UPRIGHT
    """Frame of EXIF-rotated images in training."""

    features: FeatureCache | None = None
    """Cache of the outputs of the frozen layers (see :meth:`frozen`); None: they are computed each time."""

    def __init_subclass__(cls) -> None:
        """Set what follows from the traits of a model."""
        if (traits := vars(cls).get("traits")) is not None:
            cls.name = cls.name_of(traits)
            cls.iou_type, cls.needs_masks = traits.iou_type, traits.needs_masks

    @classmethod
    @abstractmethod
    def name_of(cls, traits: Any) -> ModelName:
        """Return the registered name of these traits."""

    @property
    def learns_masks(self) -> bool:
        """True if masks of objects are targets of its training."""
        return self.needs_masks

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
        accumulated batches and processes, at least 1): so gradients do not depend on how a step is divided, as far as
        the forward pass does not.

        Returns:
            ``"loss"``, the weighted total as a 32-bit scalar with gradient, and its parts, detached.
        """

    @abstractmethod
    def predict(self, samples: Sequence[Sample]) -> list[Detections]:
        """Detect in original images; a teacher that is prompted takes the samples' boxes as prompts and keeps their
        classes.
        """

    def graphs(self, shape: tuple[int, int] | None, sizes: Sequence[tuple[int, int]]) -> list[Graph]:
        """Return the parts of the model, with its adapter merged, that are exported.

        Args:
            shape: Height and width of the input in pixels; default: such that images of all ``sizes`` fit.
            sizes: Heights and widths of images.

        Raises:
            ConfigError: The model cannot be exported, or not with this input.
        """
        raise ConfigError(f"{self.traits.title} cannot be exported")

    @abstractmethod
    def begin_training(self, settings: Any) -> None:
        """Make the trained part trainable, in place; outputs do not change yet."""

    @abstractmethod
    def set_training(self, training: bool) -> None:
        """Switch between training and prediction."""

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters by name, in the model's order."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def rate_share(self, parameter: str) -> float:
        """Return the learning rate of a parameter as a share of that of the step."""
        return 1.0

    def statistics(self) -> list[Tensor]:
        """Return the tensors that a forward pass in training changes, which differ between processes."""
        return []

    def after_step(self, step: int) -> None:  # noqa: B027 - most models have nothing to update
        """Update what follows the trained parameters after optimizer step ``step``, counted from 1."""

    @abstractmethod
    def training_tensors(self) -> dict[str, Tensor]:
        """Return all tensors that training changes, by name; they share memory with the model."""

    @abstractmethod
    def load_training_tensors(self, tensors: dict[str, Tensor], *, what: str) -> None:
        """Overwrite the tensors of :meth:`training_tensors`; nothing changes unless all of them fit.

        Args:
            tensors: By name.
            what: Beginning of the message of an error.

        Raises:
            BaseModelError: Names or shapes differ, or values are not finite.
        """

    def result_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that are evaluated and published, by the names of their file."""
        return self.training_tensors()

    def load_result_tensors(self, tensors: dict[str, Tensor], *, what: str) -> None:
        """Overwrite the tensors of :meth:`result_tensors`, like :meth:`load_training_tensors`."""
        self.load_training_tensors(tensors, what=what)

    @abstractmethod
    def save(self, folder: Path, origin: Origin) -> None:
        """Write the tensors of :meth:`result_tensors` and their card, each file atomically, the weights last."""

    @abstractmethod
    def restore(self, folder: Path) -> None:
        """Load what :meth:`save` wrote, in place.

        Raises:
            BaseModelError: The files are missing or damaged, or do not fit the model.
        """

    @abstractmethod
    def untrained(self) -> AbstractContextManager[None]:
        """Predict inside the block as before training."""

    def asking(self, classes: Sequence[str], prompts: Mapping[str, str] | None = None) -> Self:
        """Return a model with the same weights for other classes; no tensors are copied.

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

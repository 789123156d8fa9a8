"""Interface of a teacher: a base model with an adapter."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from engine.config import LoraSettings, TeacherSettings
from engine.errors import ConfigError
from engine.layout import ADAPTER
from engine.models import lora
from engine.models.model import Batch as Batch
from engine.models.model import Example as Example
from engine.models.model import Model, Origin
from engine.models.model import to_device as to_device
from engine.registry import TeacherName
from engine.traits import TeacherTraits

WHOLE_RATE = 0.5
"""Learning rate of completely trained modules of an adapter, as a share of that of LoRA matrices."""


def adapter_rate_share(parameter: str) -> float:
    """Return the learning rate of a parameter of an adapter as a share of that of LoRA matrices."""
    return WHOLE_RATE if ".modules_to_save." in parameter else 1.0


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


class Teacher(Model):
    """A base model, with or without an adapter, which :mod:`engine.models.lora` attaches by PEFT in place."""

    traits: ClassVar[TeacherTraits]
    name: ClassVar[TeacherName]
    weights_file: ClassVar[str] = ADAPTER

    @classmethod
    def name_of(cls, traits: Any) -> TeacherName:
        """See :meth:`Model.name_of`."""
        return TeacherName(traits.name)

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

    def begin_training(self, settings: TeacherSettings) -> None:
        """Attach a new adapter."""
        lora.attach(self, settings.lora)

    def set_training(self, training: bool) -> None:
        """See :func:`engine.models.lora.set_training`."""
        lora.set_training(self, training)

    def rate_share(self, parameter: str) -> float:
        """Return less than 1 for completely trained modules."""
        return adapter_rate_share(parameter)

    def training_tensors(self) -> dict[str, Tensor]:
        """Return the adapter's tensors."""
        return lora.adapter_tensors(self)

    def load_training_tensors(self, tensors: dict[str, Tensor], *, what: str) -> None:
        """See :meth:`Model.load_training_tensors`."""
        lora.load_adapter_tensors(self, tensors, what=what)

    def save(self, folder: Path, origin: Origin) -> None:
        """See :func:`engine.models.lora.save_adapter`."""
        lora.save_adapter(self, folder, card=lora.AdapterCard.of(self.name, origin))

    def restore(self, folder: Path) -> None:
        """See :func:`engine.models.lora.load_adapter`."""
        lora.load_adapter(self, folder)

    def untrained(self) -> AbstractContextManager[None]:
        """Switch the adapter off inside the block."""
        return lora.adapter_off(self)


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

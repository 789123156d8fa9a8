"""Traits of teachers and students: facts about a model that need no weights. Without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module, resources
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from engine.config.model_settings import ModelSettings
    from engine.config.teachers import TeacherSettings
    from engine.estimate.cost_traits import CostTraits
    from engine.results.types import TeacherResult


RANDOM_WEIGHTS = "random weights"
"""Base model of a student that begins with random weights, in results."""


@dataclass(frozen=True)
class PublishedBase:
    """A base model on the hub.

    Attributes:
        name: Hub id.
        parameters: Number of its parameters.
        licence: SPDX id of its licence, as published.
        size: Size of a student with its architecture.
    """

    name: str
    parameters: int
    licence: str
    size: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelTraits:
    """Facts about a model that need no weights.

    Attributes:
        name: Name in manifests, JSON and Kubernetes objects, in camel case.
        slug: Name in files, keys and Python, in snake case; that of the package.
        title: Name in texts.
        summary: Description of its task, for comments and tables.
        annotations: Annotations that it needs, and kind of its predictions.
        prompted: The boxes of the run's other model prompt it in later use, so it is trained after that one.
        reads_class_names: Class names are its prompts, so that they must be distinct phrases.
        settings: Model of its section of the configuration.
        model: Its class as ``module:class``; the module may import torch.
        model_types: Values of ``model_type`` in ``config.json`` of its bases.
        transformers_classes: Names of the classes of transformers that its bases are loaded as.
        cost: Memory and arithmetic of its steps; None if they are not known.
        published: Base models on the hub.
        licence: SPDX id of the licence of its code.
    """

    adapts_base: ClassVar[bool] = False
    """It is an adapter of a base that predicts any classes: how much it changes the base can be measured and scaled."""

    name: str
    slug: str
    title: str
    summary: str
    annotations: Literal["boxes", "masks"]
    prompted: bool = False
    reads_class_names: bool = False
    settings: type[ModelSettings]
    model: str
    model_types: tuple[str, ...] = ()
    transformers_classes: frozenset[str] = frozenset()
    cost: CostTraits | None = None
    published: tuple[PublishedBase, ...] = ()
    licence: str = "unknown"

    @property
    def needs_masks(self) -> bool:
        """True if it needs masks in the annotations and predicts masks; False for boxes."""
        return self.annotations == "masks"

    @property
    def iou_type(self) -> Literal["bbox", "segm"]:
        """IoU by which its predictions are evaluated, as COCO names it."""
        return "segm" if self.needs_masks else "bbox"

    def default_text(self) -> str:
        """Return the YAML text of its default settings: ``defaults.yaml`` next to the module of :attr:`settings`."""
        package = self.settings.__module__.rpartition(".")[0]
        return resources.files(package).joinpath("defaults.yaml").read_text(encoding="utf-8")

    def load_class(self) -> Any:
        """Import and return its class."""
        module, _, name = self.model.partition(":")
        return getattr(import_module(module), name)


@dataclass(frozen=True, kw_only=True)
class TeacherTraits(ModelTraits):
    """Facts about a teacher that need no weights.

    Inspection chooses from its :attr:`published` bases for its recommendation; without any it gives none.

    Attributes:
        on_request: It is tuned only if a request names it: another teacher is the default for these annotations.
        refused: Reasons for which related models cannot be tuned, by the beginning of their ``model_type``.
        card_code: Returns Python that loads base and adapter with transformers and PEFT alone, for the model card.
        original_suffix: Suffix of checkpoints in the format of its authors, which its class converts; empty: none.
        card_note: Note of the model card on how such a checkpoint is converted.
    """

    adapts_base: ClassVar[bool] = True

    settings: type[TeacherSettings]
    on_request: bool = False
    refused: Mapping[str, str] = field(default_factory=dict)
    card_code: Callable[[TeacherResult], str]
    original_suffix: str = ""
    card_note: str = ""


@dataclass(frozen=True, kw_only=True)
class StudentTraits(ModelTraits):
    """Facts about a student that need no weights.

    Attributes:
        sizes: Names of its sizes, the smallest first, with their approximate numbers of parameters.
        learning_rates: Default learning rates of the sizes for which it is not that of ``defaults.yaml``.
        can_learn_masks: It learns a mask of each box too, if the data has masks.
    """

    sizes: Mapping[str, int]
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    can_learn_masks: bool = False

"""Registry of teachers: their names, and the traits that the rest of the product reads. Without torch.

A teacher is one package ``engine/teachers/<slug>/``. Its module ``traits`` registers a :class:`TeacherTraits`, and is
imported when a name is first looked up; its class is imported when a model is loaded. Code that is registered from
elsewhere, such as a test, calls :func:`register` itself.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module, resources
from typing import TYPE_CHECKING, Any, Literal

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

if TYPE_CHECKING:
    from engine.config.teachers import TeacherSettings
    from engine.estimate.cost_traits import CostTraits
    from engine.results.types import TeacherResult

TEACHERS = "engine.teachers"
"""Package whose subpackages are teachers."""


@dataclass(frozen=True)
class PublishedBase:
    """A base model on the hub that inspection may recommend.

    Attributes:
        name: Hub id.
        parameters: Number of its parameters.
        licence: SPDX id of its licence, as published.
    """

    name: str
    parameters: int
    licence: str


@dataclass(frozen=True, kw_only=True)
class TeacherTraits:
    """Facts about a teacher that need no model.

    Attributes:
        name: Name in manifests, JSON and Kubernetes objects, in camel case.
        slug: Name in files, keys and Python, in snake case; that of the package.
        title: Name in texts.
        summary: Description of its task, for comments and tables.
        annotations: Annotations that it needs, and kind of its predictions.
        prompted: The boxes of the run's other teacher prompt it in later use, so it is trained after that one.
        on_request: It is tuned only if a request names it: another teacher is the default for these annotations.
        reads_class_names: Class names are its prompts, so that they must be distinct phrases.
        settings: Model of its section of ``teacher_config.yaml``.
        model: Its class as ``module:class``; the module may import torch.
        model_types: Values of ``model_type`` in ``config.json`` of its bases.
        refused: Reasons for which related models cannot be tuned, by the beginning of their ``model_type``.
        transformers_classes: Names of the classes of transformers that its bases are loaded as.
        card_code: Returns Python that loads base and adapter with transformers and PEFT alone, for the model card.
        original_suffix: Suffix of checkpoints in the format of its authors, which its class converts; empty: none.
        card_note: Note of the model card on how such a checkpoint is converted.
        cost: Memory and arithmetic of its steps; None if they are not known.
        published: Base models that inspection chooses from for its recommendation; empty: it gives none.
    """

    name: str
    slug: str
    title: str
    summary: str
    annotations: Literal["boxes", "masks"]
    prompted: bool = False
    on_request: bool = False
    reads_class_names: bool = False
    settings: type[TeacherSettings]
    model: str
    model_types: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    transformers_classes: frozenset[str] = frozenset()
    card_code: Callable[[TeacherResult], str]
    original_suffix: str = ""
    card_note: str = ""
    cost: CostTraits | None = None
    published: tuple[PublishedBase, ...] = ()

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


TRAITS: dict[str, TeacherTraits] = {}
"""Registered traits by name. Read through :func:`traits_of` and :class:`TeacherName`, which import them first."""

_NAMES: dict[str, TeacherName] = {}


def register(traits: TeacherTraits) -> TeacherTraits:
    """Register a teacher, and return its traits."""
    TRAITS[traits.name] = traits
    return traits


@cache
def _import_traits() -> None:
    for module in pkgutil.iter_modules(import_module(TEACHERS).__path__):
        if module.ispkg:
            import_module(f"{TEACHERS}.{module.name}.traits")


def _ordered() -> list[TeacherTraits]:
    """Return all traits; a teacher comes after those that prompt it."""
    _import_traits()
    return sorted(TRAITS.values(), key=lambda traits: (traits.prompted, traits.slug))


class _Names(type):
    """Lets the names be iterated, counted and looked up by upper-case slug, like the members of an enum."""

    def __iter__(cls) -> Iterator[TeacherName]:
        return iter([TeacherName(traits.name) for traits in _ordered()])

    def __len__(cls) -> int:
        return len(_ordered())

    def __contains__(cls, name: object) -> bool:
        _import_traits()
        return name in TRAITS

    def __getattr__(cls, member: str) -> TeacherName:
        if member.isupper():
            for traits in _ordered():
                if traits.slug.upper() == member:
                    return TeacherName(traits.name)
        raise AttributeError(f"there is no teacher {member}")


class TeacherName(str, metaclass=_Names):
    """Name of a registered teacher. Each name is one object, so that ``is`` compares it too.

    Raises:
        ValueError: No teacher with this name is registered.
    """

    __slots__ = ()

    def __new__(cls, name: str) -> TeacherName:
        """Return the name, if it is registered."""
        if name not in cls:
            raise ValueError(f"there is no teacher {name!r}, only {' and '.join(t.name for t in _ordered())}")
        return _NAMES.setdefault(str(name), str.__new__(cls, name))

    @property
    def traits(self) -> TeacherTraits:
        """Traits of the teacher."""
        return TRAITS[self]

    @property
    def value(self) -> str:
        """The name as a plain string."""
        return str(self)

    @property
    def slug(self) -> str:
        """Name in files, keys and Python, in snake case."""
        return self.traits.slug

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate at run time, since teachers may be registered after a model was defined."""
        return core_schema.no_info_after_validator_function(
            cls._validated,
            core_schema.str_schema(),
            serialization=core_schema.plain_serializer_function_ser_schema(str, when_used="json"),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the enum of the registered names."""
        return {"type": "string", "enum": [str(name) for name in cls]}

    @classmethod
    def _validated(cls, name: str) -> TeacherName:
        if name in cls:
            return cls(name)
        expected = " or ".join(repr(str(known)) for known in cls)
        raise PydanticCustomError("enum", "Input should be {expected}", {"expected": expected})


def by_suffix(uri: str) -> TeacherTraits | None:
    """Return the traits of the teacher whose authors' checkpoints have the suffix of ``uri``; None for other files."""
    return next((one for one in _ordered() if one.original_suffix and uri.endswith(one.original_suffix)), None)


def transformers_classes() -> frozenset[str]:
    """Return the names of the classes of transformers that the bases of all teachers are loaded as."""
    return frozenset(one for traits in _ordered() for one in traits.transformers_classes)


def of_model_type(model_type: str) -> TeacherName | None:
    """Return the teacher that has bases with this ``model_type`` in ``config.json``; None if there is none."""
    return next((name for name in TeacherName if model_type in name.traits.model_types), None)


def refusal(model: str) -> str:
    """Return the reason for which a model cannot be tuned, by its ``model_type`` or name; empty if there is none.

    >>> refusal("sam3_tracker")[:22], refusal("edgetam")
    ('SAM 3 is not supported', '')
    """
    reasons = ((start, reason) for traits in _ordered() for start, reason in traits.refused.items())
    return next((reason for start, reason in reasons if model.startswith(start)), "")


def known_model_types() -> str:
    """Return a sentence on the model types of the bases of all teachers."""
    known = [f"{name} takes {' or '.join(name.traits.model_types)}" for name in TeacherName if name.traits.model_types]
    return f"of the teachers, {', '.join(known)}"


def class_reader(names: Iterable[TeacherName] | None = None) -> TeacherName | None:
    """Return the first of ``names``, or of all teachers, that is prompted by class names."""
    candidates = TeacherName if names is None else names
    return next((name for name in candidates if name.traits.reads_class_names), None)


def prompters(name: TeacherName, names: Iterable[TeacherName] | None = None) -> list[TeacherName]:
    """Return the teachers among ``names``, or among all, whose boxes may prompt ``name`` in later use."""
    candidates = TeacherName if names is None else names
    return [one for one in candidates if name.traits.prompted and not one.traits.needs_masks]


def of_one_kind(names: Iterable[TeacherName]) -> list[TeacherName]:
    """Return the first teachers in ``names`` that need the same annotations, and so predict the same; or none."""
    by_need: dict[str, list[TeacherName]] = {}
    for name in names:
        by_need.setdefault(name.traits.annotations, []).append(name)
    return next((alike for alike in by_need.values() if len(alike) > 1), [])

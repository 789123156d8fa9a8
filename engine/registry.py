"""Registry of teachers and students: their names, and the traits that the rest of the product reads. Without torch.

A teacher is one package ``engine/teachers/<slug>/``, a student one of ``engine/students/``. Its module ``traits``
registers a :class:`TeacherTraits` or :class:`StudentTraits`, and is imported when a name is first looked up; its class
is imported when a model is loaded. Code that is registered from elsewhere, such as a test, calls :func:`register`
itself.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any, ClassVar, Self, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from engine.traits import ModelTraits, StudentTraits, TeacherTraits

TRAITS: dict[str, TeacherTraits] = {}
"""Registered teachers by name. Read through :func:`traits_of` and :class:`TeacherName`, which import them first."""

STUDENT_TRAITS: dict[str, StudentTraits] = {}
"""Registered students by name. Read through :class:`StudentName`, which imports them first."""

_NAMES: dict[str, ModelName] = {}

T = TypeVar("T", bound=ModelTraits)


def register(traits: T) -> T:
    """Register a teacher or a student, and return its traits."""
    if isinstance(traits, TeacherTraits):
        TRAITS[traits.name] = traits
    elif isinstance(traits, StudentTraits):
        STUDENT_TRAITS[traits.name] = traits
    return traits


@cache
def _import_traits(package: str) -> None:
    for module in pkgutil.iter_modules(import_module(package).__path__):
        if module.ispkg:
            import_module(f"{package}.{module.name}.traits")


def _ordered() -> list[TeacherTraits]:
    """Return the traits of all teachers; a teacher comes after those that prompt it."""
    return [TRAITS[name] for name in TeacherName]


class _Names(type):
    """Lets the names be iterated, counted and looked up by upper-case slug, like the members of an enum."""

    package: str
    """Package whose subpackages register the models."""
    kind: str
    registered: Mapping[str, ModelTraits]

    @property
    def _kinds(cls) -> list[_Names]:
        """The subclasses that names are registered for."""
        kinds: list[Any] = cls.__subclasses__()
        return kinds or [cls]

    def __iter__(cls) -> Iterator[Any]:
        names: list[Any] = []
        for kind in cls._kinds:
            _import_traits(kind.package)
            ordered = sorted(kind.registered.values(), key=lambda traits: (traits.prompted, traits.slug))
            names += [kind(traits.name) for traits in ordered]
        return iter(names)

    def __len__(cls) -> int:
        return sum(1 for _ in cls)

    def __contains__(cls, name: object) -> bool:
        for kind in cls._kinds:
            _import_traits(kind.package)
        return any(name in kind.registered for kind in cls._kinds)

    def __getattr__(cls, member: str) -> Any:
        if member.isupper():
            for name in cls:
                if name.slug.upper() == member:
                    return name
        raise AttributeError(f"there is no {cls.kind} {member}")


class ModelName(str, metaclass=_Names):
    """Name of a registered teacher or student. Each name is one object, so that ``is`` compares it too.

    Raises:
        ValueError: No model of this kind with this name is registered.
    """

    __slots__ = ()

    kind: ClassVar[str] = "model"
    section: ClassVar[str]
    """Section of the configuration with its settings."""

    def __new__(cls, name: str) -> Self:
        """Return the name, if it is registered."""
        if name not in cls:
            raise ValueError(f"there is no {cls.kind} {name!r}, only {' and '.join(map(str, cls))}")
        for kind in cls.__subclasses__():
            if name in kind:
                return kind(name)
        return _NAMES.setdefault(str(name), str.__new__(cls, name))  # type: ignore[return-value]

    @property
    def traits(self) -> ModelTraits:
        """Traits of the model."""
        return type(self).registered[self]

    @property
    def value(self) -> str:
        """The name as a plain string."""
        return str(self)

    @property
    def slug(self) -> str:
        """Name in files, keys and Python, in snake case."""
        return self.traits.slug

    @property
    def path(self) -> str:
        """Path of its settings in the configuration."""
        return f"{self.section}.{self.slug}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate at run time, since models may be registered after a pydantic model was defined."""
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
    def _validated(cls, name: str) -> Self:
        if name in cls:
            return cls(name)
        expected = " or ".join(repr(str(known)) for known in cls)
        raise PydanticCustomError("enum", "Input should be {expected}", {"expected": expected})


class TeacherName(ModelName):
    """Name of a registered teacher."""

    __slots__ = ()

    package = "engine.teachers"
    kind = "teacher"
    section = "teachers"
    registered = TRAITS

    @property
    def traits(self) -> TeacherTraits:
        """Traits of the teacher."""
        return TRAITS[self]


class StudentName(ModelName):
    """Name of a registered student."""

    __slots__ = ()

    package = "engine.students"
    kind = "student"
    section = "students"
    registered = STUDENT_TRAITS

    @property
    def traits(self) -> StudentTraits:
        """Traits of the student."""
        return STUDENT_TRAITS[self]


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


def prompters(name: ModelName, names: Iterable[TeacherName] | None = None) -> list[TeacherName]:
    """Return the teachers among ``names``, or among all, whose boxes may prompt ``name`` in later use."""
    candidates = TeacherName if names is None else names
    return [one for one in candidates if name.traits.prompted and not one.traits.needs_masks]


def of_one_kind(names: Iterable[TeacherName]) -> list[TeacherName]:
    """Return the first teachers in ``names`` that need the same annotations, and so predict the same; or none."""
    by_need: dict[str, list[TeacherName]] = {}
    for name in names:
        by_need.setdefault(name.traits.annotations, []).append(name)
    return next((alike for alike in by_need.values() if len(alike) > 1), [])

"""Options that set fields of :class:`engine.spec.FineTuneSpec`: bounds, choices and help are those of the field."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from pydantic import BaseModel, TypeAdapter, ValidationError

from engine.registry import ModelName, StudentName, TeacherName
from engine.text.pydantic_errors import in_words


def named(kind: type[ModelName]) -> dict[str, Any]:
    """Return arguments of an option whose values are names of models of a kind."""

    def read(name: str) -> ModelName:
        if name not in kind:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, map(str, kind)))}.")
        return kind(name)

    return {
        "parser": read,
        "metavar": "[" + "|".join(kind) + "]",
        "autocompletion": lambda: list(map(str, kind)),
    }


TEACHER = named(TeacherName)
STUDENT = named(StudentName)


def spec_option(model: type[BaseModel], field: str, *flags: str, more: str = "") -> Any:
    """Return a typer option for a field of the spec.

    Args:
        model: Part of the spec.
        field: Name of the field in Python.
        *flags: Names of the option; default: ``--`` and the name of the field.
        more: Sentence that follows the field's description in the help.
    """
    least, most = bounds(model, field)
    flags = flags or (f"--{field.replace('_', '-')}",)
    if option_type(model, field) is bool:
        flags = tuple(f"{flag}/--no-{flag.removeprefix('--')}" for flag in flags)
    return typer.Option(
        *flags,
        min=least,
        max=most,
        help=f"{model.model_fields[field].description} {more}".strip(),
        callback=_check(model, field),
        **{TeacherName: TEACHER, StudentName: STUDENT}.get(option_type(model, field), {}),
    )


def bounds(model: type[BaseModel], field: str) -> tuple[int | None, int | None]:
    """Return the least and the largest value of a number, each None where there is none.

    >>> from engine.spec import TeacherSpec
    >>> bounds(TeacherSpec, "epochs")
    (1, 10000)
    """
    found = {
        name: getattr(one, name)
        for one in model.model_fields[field].metadata
        for name in ("ge", "le")
        if hasattr(one, name)
    }
    return found.get("ge"), found.get("le")


def option_type(model: type[BaseModel], field: str) -> Any:
    """Return the type that the command line reads: a number, an enumeration or text, without constraints."""
    return _bare(model.model_fields[field].annotation)


def _bare(annotation: Any) -> Any:
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) is list:  # a repeatable option
        return list[_bare(get_args(annotation)[0])]  # type: ignore[misc]
    if get_origin(annotation) in (Union, types.UnionType):
        return _bare(next(one for one in get_args(annotation) if one is not type(None)))
    return annotation


def _check(model: type[BaseModel], field: str) -> Callable[[Any], Any]:
    """Return a callback that validates a value as the field does: bounds of text, such as decimals, too."""
    info = model.model_fields[field]
    kind: Any = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
    adapter: TypeAdapter[Any] = TypeAdapter(kind)

    def check(value: Any) -> Any:
        if value is None or isinstance(value, list | tuple):  # repeated values are validated with the request
            return value
        try:
            adapter.validate_python(value)
        except ValidationError as error:
            raise typer.BadParameter(f"{in_words(error.errors()[0])}, found {value!r}.") from None
        return value

    return check

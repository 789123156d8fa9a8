"""Turns validation errors of pydantic into messages with the remedy."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from engine.errors import ConfigError
from engine.text.safe_text import listed

M = TypeVar("M", bound=BaseModel)

MOST_FAULTS = 20
"""Faults that are named; more are counted."""

LONGEST = 100
"""Characters of a found value, or of a name, in a message."""


def parse(
    model: type[M],
    data: object,
    *,
    where: str,
    strict: bool = False,
    by_name: bool = False,
    context: Mapping[str, object] | None = None,
    line_of: Callable[[tuple[str | int, ...]], int | None] = lambda path: None,
) -> M:
    """Validate ``data`` as ``model``.

    Args:
        model: The pydantic model to build.
        data: Plain data, as YAML or JSON gives it.
        where: Name of the data in messages, e.g. ``forklifts.yaml``.
        strict: Do not accept a number in quotes as a number, as in Kubernetes.
        by_name: Accept the Python names of fields too, next to their aliases.
        context: Context of pydantic's validators.
        line_of: Gives the line of a setting by its path, if it is known.

    Raises:
        ConfigError: One sentence per fault, each with the path of the setting, what was found and,
            for a name that does not exist, the nearest that does.
    """
    try:
        if strict:
            return model.model_validate_json(json.dumps(data, default=str), strict=True, by_alias=True, by_name=False)
        return model.model_validate(data, by_alias=True, by_name=by_name, context=context)
    except ValidationError as error:
        raise ConfigError(f"{where} cannot be used:\n{faults_in(error, model, line_of)}") from None
    except (ValueError, TypeError, RecursionError) as error:  # what JSON has no way to write, by Python's callers
        raise ConfigError(f"{where} cannot be used: {_short(str(error))}") from None


def faults_in(
    error: ValidationError,
    model: type[BaseModel],
    line_of: Callable[[tuple[str | int, ...]], int | None] = lambda path: None,
) -> str:
    """A line for each fault, indented, :data:`MOST_FAULTS` at most."""
    faults = error.errors(include_url=False)
    shown = []
    for fault in faults[:MOST_FAULTS]:
        line = line_of(fault["loc"])
        shown.append(f"  {'' if line is None else f'line {line}: '}{_sentence(model, fault)}")
    if len(faults) > MOST_FAULTS:
        shown.append(f"  and {len(faults) - MOST_FAULTS:,} more")
    return "\n".join(shown)


def nearest(name: str, names: list[str]) -> str:
    """``" (did you mean 'epochs'?)"`` if a name is close, else a list of what there is."""
    close = closest(name, names)
    return f" (did you mean {close!r}?)" if close else f" (known here: {listed(sorted(names), 20)})"


def closest(name: str, names: list[str]) -> str | None:
    """Return the name that was probably meant; None if none is close."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    # A different case or separator is a slip too: learning_rate for learningRate.
    return close[0] if close else {_folded(one): one for one in names}.get(_folded(name))


def _folded(name: str) -> str:
    """Return a name without case and separators.

    >>> _folded("learningRate") == _folded("learning_rate")
    True
    """
    return name.lower().replace("_", "").replace("-", "")


def _sentence(model: type[BaseModel], fault: Any) -> str:
    path = ".".join(_short(str(part)) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        *parents, name = fault["loc"]
        models = _models_at(model, parents)
        advice = [
            text
            for m in models
            for base in m.__mro__
            for removed, text in vars(base).get("REMOVED", {}).items()
            if _folded(removed) == _folded(str(name))
        ]
        if advice:
            return f"{path}: {advice[0]}"
        name = _short(str(name))
        return f"{path}: there is no setting {name!r}{nearest(name, _names_in(models))}"
    if fault["type"] == "missing":
        return f"{path}: required, but not given"
    message = in_words(fault)
    if fault["type"] in GROUP_TYPES:
        names = _names_in(_models_at(model, list(fault["loc"])))
        message += f": {listed(names, 20)}" if names else ""
    found = "" if isinstance(fault["input"], dict | list) else f", found {_short(repr(fault['input']))}"
    if fault["type"] in {"enum", "literal_error"} and isinstance(fault["input"], str):
        allowed = [part.strip("' ") for part in fault["ctx"]["expected"].replace(" or ", ", ").split(",")]
        given = _short(fault["input"])
        return f"{path}: {given!r} is not allowed{nearest(given, allowed)}"
    return f"{path}: {message}{found}" if path else message


GROUP_TYPES = frozenset({"model_type", "model_attributes_type"})

WORDS = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "string_unicode": "must be text of valid characters",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "dict_type": "must be a group of names, each with a value",
    **dict.fromkeys(GROUP_TYPES, "must be a group of settings"),
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "value_error": "{error}",
}
"""Message by pydantic's type of fault, with its context."""

_FORMS: dict[str, str] = {}


def form(pattern: str, words: str) -> str:
    """Return a pattern unchanged, after noting its description for messages: ``must be <words>``."""
    _FORMS[pattern] = words
    return pattern


def in_words(fault: Any) -> str:
    """Return the message of a fault of pydantic, without the value and its path."""
    kind, context, value = fault["type"], fault.get("ctx", {}), fault["input"]
    if kind == "string_pattern_mismatch":
        pattern = str(context["pattern"])
        return f"must be {_FORMS[pattern]}" if pattern in _FORMS else f"must match the pattern {pattern}"
    if kind == "string_too_short" and context["min_length"] == 1:
        return "must not be empty"
    message = WORDS[kind].format(**context) if kind in WORDS else str(fault["msg"])
    if kind == "string_type" and isinstance(value, int | float):
        text = str(value).lower() if isinstance(value, bool) else str(value)
        message += f': write it in quotes, "{_short(text)}"'
    if kind in {"int_type", "float_type"} and isinstance(value, str) and value.isdecimal():
        message += f": write it without quotes, {_short(value)}"
    if kind == "list_type" and isinstance(value, str):
        message += f": write [{_short(json.dumps(value))}]"
    return message


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _models_at(model: type[BaseModel], path: list[str | int]) -> list[type[BaseModel]]:
    """Return the models that may describe the value at ``path``."""
    models = [model]
    for part in path:
        if isinstance(part, int):
            continue
        models = [
            inner
            for outer in models
            for name, field in outer.model_fields.items()
            if part in (name, field.alias)
            for inner in _models_in(field.annotation)
        ] or models
    return models


def _names_in(models: list[type[BaseModel]]) -> list[str]:
    """Return the names that a user may write: aliases where there are any."""
    return [field.alias or name for m in models for name, field in m.model_fields.items()]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation.resolved() if hasattr(annotation, "resolved") else annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)

"""Turns pydantic's complaints into sentences a user can act on."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from engine.errors import ConfigError

M = TypeVar("M", bound=BaseModel)


def parse(model: type[M], data: object, *, where: str, strict: bool = False) -> M:
    """Validate ``data`` as ``model``.

    Args:
        model: The pydantic model to build.
        data: Plain data, as YAML or JSON gives it.
        where: What the data is called in messages, e.g. ``forklifts.yaml``.
        strict: Take no number in quotes for a number, as Kubernetes does not.

    Raises:
        ConfigError: One sentence per fault, each with the path of the setting, what was found and,
            for a name that does not exist, the nearest that does.
    """
    try:
        if strict:
            return model.model_validate_json(json.dumps(data, default=str), strict=True, by_alias=True, by_name=False)
        return model.model_validate(data, by_alias=True, by_name=False)
    except ValidationError as error:
        faults = "\n".join(f"  {_sentence(model, fault)}" for fault in error.errors())
        raise ConfigError(f"{where} cannot be used:\n{faults}") from None


def nearest(name: str, names: list[str]) -> str:
    """``" (did you mean 'epochs'?)"`` if a name is close, else a list of what there is."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if not close:  # a different case or separator is a slip too: learning_rate for learningRate
        folded = {n.lower().replace("_", ""): n for n in names}
        match = folded.get(name.lower().replace("_", "").replace("-", ""))
        close = [match] if match else []
    return f" (did you mean {close[0]!r}?)" if close else f" (known here: {', '.join(sorted(names))})"


def _sentence(model: type[BaseModel], fault: Any) -> str:
    path = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        *parents, name = fault["loc"]
        return f"{path}: there is no setting {name!r}{nearest(str(name), _names_at(model, parents))}"
    if fault["type"] == "missing":
        return f"{path}: required, but not given"
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "string_type" and isinstance(fault["input"], int | float):
        message = f'{message}: write it in quotes, "{fault["input"]}"'
    found = "" if isinstance(fault["input"], dict | list) else f", found {fault['input']!r}"
    if fault["type"] in {"enum", "literal_error"} and isinstance(fault["input"], str):
        allowed = [part.strip("' ") for part in fault["ctx"]["expected"].replace(" or ", ", ").split(",")]
        return f"{path}: {fault['input']!r} is not allowed{nearest(fault['input'], allowed)}"
    return f"{path}: {message}{found}" if path else message


def _names_at(model: type[BaseModel], path: list[str | int]) -> list[str]:
    """Names a user may write inside ``path``: aliases where there are any."""
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
    return [field.alias or name for m in models for name, field in m.model_fields.items()]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)

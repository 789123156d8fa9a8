"""Checks against the CRD's schema, as the API server makes them when something is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema

from teacher_operator.api.crd import structural
from teacher_operator.api.spec import TeacherFineTuneSpec
from teacher_operator.api.status import TeacherFineTuneStatus

Schema = dict[str, Any]

SPEC, STATUS = structural(TeacherFineTuneSpec), structural(TeacherFineTuneStatus)
INT64 = 2**63


def closed(schema: Schema) -> Schema:
    """The schema with every field refused that the API server would drop without a word."""
    result = dict(schema)
    if "properties" in schema:
        result["properties"] = {name: closed(inner) for name, inner in schema["properties"].items()}
        result["additionalProperties"] = False
    if "items" in schema:
        result["items"] = closed(schema["items"])
    return result


def nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every part of a schema with its path: ``.dataset.train``, ``.teachers[]``, ``.nodeSelector{}``."""
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from nodes(schema["additionalProperties"], f"{path}{{}}")


_SPEC_VALIDATOR = jsonschema.Draft202012Validator(closed(SPEC))
_STATUS_VALIDATOR = jsonschema.Draft202012Validator(closed(STATUS))


def spec_errors(spec: Any) -> list[str]:
    """Why a spec is refused."""
    return [f"{error.json_path}: {error.message}" for error in _SPEC_VALIDATOR.iter_errors(spec)]


def status_errors(status: TeacherFineTuneStatus) -> list[str]:
    """Why the API server would refuse, or not keep, a status."""
    value = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    errors = [f"{error.json_path}: {error.message[:200]}" for error in _STATUS_VALIDATOR.iter_errors(value)]
    return errors + list(_beyond_schema(value, STATUS, "$"))


def _beyond_schema(value: Any, schema: Schema, path: str) -> Iterator[str]:
    """Integers that are too long, and lists whose items share a name."""
    if isinstance(value, bool):
        return
    if isinstance(value, int) and not -INT64 <= value < INT64:
        yield f"{path}: {value} is no int64"
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _beyond_schema(inner, schema.get("properties", {}).get(name, {}), f"{path}.{name}")
    elif isinstance(value, list):
        for keys in schema.get("x-kubernetes-list-map-keys", ()):
            names = [item[keys] for item in value]
            if len(names) != len(set(names)):
                yield f"{path}: items share a {keys}: {names}"
        for index, item in enumerate(value):
            yield from _beyond_schema(item, schema.get("items", {}), f"{path}[{index}]")

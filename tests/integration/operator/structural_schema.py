"""Defaults and pruning of custom resources, as an API server does them by the CRD's schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

METADATA = ("apiVersion", "kind", "metadata")
"""Fields that the API server defines for every object."""


def admitted(schema: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a custom resource as it is stored: with the schema's defaults, without what the schema does not know."""
    kept = {name: body[name] for name in METADATA if name in body}
    rest = {name: value for name, value in body.items() if name not in METADATA}
    fields = {name: field for name, field in schema["properties"].items() if name not in METADATA}
    return kept | _value({"properties": fields}, rest)


def _value(schema: Mapping[str, Any], value: Any) -> Any:
    if isinstance(value, Mapping):
        if "additionalProperties" in schema:
            return {name: _value(schema["additionalProperties"], one) for name, one in value.items()}
        fields = schema.get("properties", {})
        unknown = value if schema.get("x-kubernetes-preserve-unknown-fields") else {}
        # A null where a default exists, in a field that may not be null, counts as absent.
        given = {
            name: one
            for name, one in value.items()
            if name in fields and not (one is None and "default" in fields[name] and not fields[name].get("nullable"))
        }
        defaults = {name: field["default"] for name, field in fields.items() if "default" in field}
        return {**unknown, **{name: _value(fields[name], one) for name, one in (defaults | given).items()}}
    if isinstance(value, list):
        return [_value(schema.get("items", {}), one) for one in value]
    return value

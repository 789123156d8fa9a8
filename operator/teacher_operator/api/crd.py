"""Generate the CRD from the models: ``python -m teacher_operator.api.crd > crds/teacherfinetunes.finetune.dev.yaml``.

A structural schema is a subset of JSON schema: no references, no null, a type everywhere. The validators of the models
are repeated as CEL rules in :mod:`teacher_operator.api.crd_rules`, so that the API server reports the same messages.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from teacher_operator.api.crd_rules import LIST_KEYS, PATTERNS, RULES, SERVICE_NAME, immutable_rules
from teacher_operator.api.kubernetes_strings import INT_OR_STRING
from teacher_operator.api.spec import (
    GROUP,
    KIND,
    NAME_MAX,
    PLATFORM,
    PLATFORM_STORAGE,
    PLURAL,
    VERSION,
    TeacherFineTuneSpec,
)
from teacher_operator.api.status import TeacherFineTuneStatus

Schema = dict[str, Any]

UNRECONCILED: Schema = {"observedGeneration": 0}
"""Default status of an object that has not been reconciled yet. Tools that wait for objects (kstatus: Flux, Helm, kpt)
treat an object without ``observedGeneration`` as ready; generations begin at 1, so 0 means that it is in progress."""

COLUMNS: tuple[tuple[str, str, str, int], ...] = (
    ("Teachers", "string", ".status.summary.teachers", 0),
    ("State", "string", '.status.conditions[?(@.type=="Succeeded")].reason', 0),
    ("Progress", "string", ".status.summary.progress", 0),
    ("Left", "string", ".status.summary.timeLeft", 0),
    ("mAP", "string", ".status.summary.map", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Node", "string", ".status.summary.nodes", 1),
    ("Queue", "string", ".spec.queueName", 1),
    ("GPU-s", "integer", ".status.gpuSeconds", 1),
    ("URI", "string", ".status.uri", 1),
    ("Message", "string", '.status.conditions[?(@.type=="Succeeded")].message', 1),
)


def crd() -> Schema:
    """Return the CustomResourceDefinition."""
    spec, status = structural(TeacherFineTuneSpec), structural(TeacherFineTuneStatus) | {"default": UNRECONCILED}
    spec["x-kubernetes-validations"] += [_rule(*rule) for rule in immutable_rules()]
    schema = {
        "type": "object",
        "description": "Adapts vision teachers to a COCO dataset by LoRA, from object storage to object storage.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of this schema."},
            "kind": {"type": "string", "description": "Kind of the object."},
            "metadata": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "maxLength": NAME_MAX, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}
                },
            },
            "spec": spec,
            "status": status,
        },
        "x-kubernetes-validations": [_rule(*SERVICE_NAME)],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["tft"],
                "categories": ["all", "finetune"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": name, "type": kind, "jsonPath": path, **({"priority": wide} if wide else {})}
                        for name, kind, path, wide in COLUMNS
                    ],
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def structural(model: type[BaseModel]) -> Schema:
    """Return the structural schema of a model."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    definitions = schema.pop("$defs", {})
    return _object(schema, definitions, name=model.__name__)


def _object(schema: Schema, definitions: Mapping[str, Schema], *, name: str) -> Schema:
    properties = {}
    for field, inner in schema.get("properties", {}).items():
        converted = _field(inner, definitions)
        kind, key = LIST_KEYS.get(f"{name}.{field}", ("atomic", ""))
        if converted.get("type") == "array":
            converted["x-kubernetes-list-type"] = kind
            if key:
                converted["x-kubernetes-list-map-keys"] = [key]
        if field in PATTERNS.get(name, {}):
            converted["pattern"] = PATTERNS[name][field]
        properties[field] = converted
    result: Schema = {"type": "object", "description": schema.get("description", "").splitlines()[0]}
    if schema.get("required"):
        result["required"] = list(schema["required"])
    result["properties"] = properties
    if name in RULES:
        result["x-kubernetes-validations"] = [_rule(*rule) for rule in RULES[name]]
    return result


def _field(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """Return the schema of a field. The description of the field takes precedence over that of its type."""
    description = schema.get("description")
    inner = next((one for one in schema["anyOf"] if one.get("type") != "null"), {}) if "anyOf" in schema else schema
    if "$ref" in inner:
        name = inner["$ref"].rsplit("/", 1)[1]
        definition = definitions[name]
        result = _object(definition, definitions, name=name) if "properties" in definition else _scalar(definition)
    elif inner.get("type") == "array":
        result = {"type": "array", "items": _field(inner["items"], definitions)}
        result |= {key: inner[key] for key in ("maxItems", "minItems") if key in inner}
    elif inner.get("type") == "object":
        result = {"type": "object"}
        values = _values(inner)
        if values is not None:
            result |= {"additionalProperties": _field(values, definitions)}
            result |= {key: inner[key] for key in ("maxProperties",) if key in inner}
        else:
            result["x-kubernetes-preserve-unknown-fields"] = True
    else:
        result = _scalar(inner)
    if description:
        result = {**result, "description": description}
    default = schema.get("default")
    if default is not None and not isinstance(default, dict | list):
        result["default"] = default
    return result


def _values(schema: Schema) -> Schema | None:
    """Return the schema of the values of a map; None for an object with arbitrary fields.

    A structural schema cannot restrict keys by a pattern: only the model checks them.
    """
    patterns = schema.get("patternProperties") or {}
    values: Schema | None = next(iter(patterns.values()), None) or schema.get("additionalProperties")
    return values if isinstance(values, dict) else None


def _scalar(schema: Schema) -> Schema:
    kept = ("type", "enum", "minimum", "maximum", "minLength", "maxLength", "pattern", "description")
    result = {key: schema[key] for key in kept if key in schema}
    if schema.get(INT_OR_STRING):
        del result["type"]
        return result | {INT_OR_STRING: True, "anyOf": [{"type": "integer"}, {"type": "string"}], "minimum": 0}
    if result["type"] == "integer":
        result["format"] = "int64"
    if "enum" in result and "maxLength" not in result:
        result["maxLength"] = max(len(value) for value in result["enum"])
    return result


def _rule(rule: str, message: str) -> Schema:
    return {"rule": rule, "message": message}


PLATFORM_FIELDS_HEAD = '''\
"""Fields of a manifest that concern the cluster and not the training, by the object that has them.

Generated from the marks in operator/teacher_operator/api/spec.py: `make crds` writes it.
"""

PLATFORM_FIELDS: dict[str, tuple[str, ...]] = {
'''


class _PlainDumper(yaml.SafeDumper):
    """YAML dumper without anchors and aliases, which not every reader supports."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def platform_fields_module() -> str:
    """Return the source of ``engine/platform_fields.py``: the engine needs only the names of the platform fields."""
    groups = {"spec": PLATFORM, "spec.storage": PLATFORM_STORAGE}
    lines = [
        f'    "{path}": (\n' + "".join(f'        "{name}",\n' for name in sorted(names)) + "    ),\n"
        for path, names in groups.items()
    ]
    return PLATFORM_FIELDS_HEAD + "".join(lines) + "}\n"


def crd_yaml() -> str:
    """Return the text of the file in ``crds/``."""
    head = "# Generated from operator/teacher_operator/api/spec.py and status.py: `make crds` writes it.\n"
    return head + yaml.dump(crd(), Dumper=_PlainDumper, sort_keys=False, width=120, allow_unicode=True)


if __name__ == "__main__":
    sys.stdout.write(platform_fields_module() if sys.argv[1:] == ["platform-fields"] else crd_yaml())

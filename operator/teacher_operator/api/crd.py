"""From the models to the CRD: ``python -m teacher_operator.api.crd > crds/teacherfinetunes.finetune.dev.yaml``. Pure.

A structural schema is JSON schema with less: no references, no null, a type everywhere. What the models check in
Python stands here as CEL rules, so that the API server refuses it with the same words.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from engine.spec import StorageSpec
from teacher_operator.api.kube_types import INT_OR_STRING
from teacher_operator.api.pod_rules import POD_LIST_KEYS, POD_RULES
from teacher_operator.api.spec import (
    GROUP,
    INPUTS,
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

ACCESS_POINT = (
    r"arn:aws[a-z-]*:(s3:[a-z0-9-]+:[0-9]{12}:accesspoint[:/][a-z0-9][a-z0-9-]{1,48}[a-z0-9]"
    r"|s3-outposts:[a-z0-9-]+:[0-9]{12}:outpost[:/][A-Za-z0-9-]{1,63}[:/]accesspoint[:/][a-z0-9][a-z0-9-]{1,62})"
)
BUCKET = rf"([a-z0-9][a-z0-9._-]{{1,61}}[a-z0-9]|{ACCESS_POINT})"
GOOGLE_URI = r"gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"
AZURE_URI = r"az://[a-z0-9][a-z0-9-]{1,61}[a-z0-9]"
CLAIM_URI = r"pvc://[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
PLACE = rf"(s3://{BUCKET}|{GOOGLE_URI}|{AZURE_URI}|{CLAIM_URI})"
DATA_URI = rf"^{PLACE}(/[^\x00-\x1f]*)?$"
MODEL_URI = rf"^({PLACE}/[^\x00-\x1f]+|[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)?)$"

PATTERNS: Mapping[str, Mapping[str, str]] = {
    "DatasetSpec": {"annotations": DATA_URI, "images": DATA_URI},
    "PartSpec": {"annotations": DATA_URI, "images": DATA_URI},
    "RetentionSpec": {"annotations": DATA_URI, "images": DATA_URI},
    "TeacherFineTuneSpec": {"output": DATA_URI},
    "TeacherSpec": {"baseModel": MODEL_URI},
    "ClusterStorageSpec": {"caBundle": r"^/[^\x00-\x1f]+$"},
}
"""Pods see no disk but claims: on a cluster places lie in object storage or on a claim; models on the hub too."""

METADATA_HOST = (
    r"^https?://([^/]*@)?\\[?(169[.]254[.]|[fF][eE]80:|[fF][dD]00:[eE][cC]2:|metadata([.:/]|$)|instance-data[.])"
)
"""The usual ways to write a metadata service; every other way is refused by the operator and in the pods."""

SERVICE_NAME = (
    "!has(self.spec.nodes) || self.spec.nodes == 1 || self.metadata.name.matches('^[a-z]')",
    "with several nodes the name must begin with a letter: it is that of a Service too",
)

RULES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "SplitSpec": (("self.train + self.val + self.test == 100", "train, val and test must make 100 percent"),),
    "DatasetSpec": (
        (
            "has(self.annotations) != has(self.train)",
            "give either dataset.annotations or dataset.train with dataset.val, not both or none",
        ),
        (
            "!has(self.train) || has(self.val)",
            "dataset.train needs dataset.val too: the best adapter is selected on it",
        ),
        (
            "has(self.train) || !(has(self.val) || has(self.test))",
            "dataset.val and dataset.test go with dataset.train, not with dataset.annotations",
        ),
        (
            "!(has(self.train) && has(self.split))",
            "dataset.split divides dataset.annotations; dataset.train is split already",
        ),
    ),
    "LoraSpec": (("!has(self.dropout) || double(self.dropout) < 1.0", 'dropout must be at least "0" and below "1"'),),
    "TeacherSpec": (
        (
            "!has(self.learningRate) || (double(self.learningRate) > 0.0 && double(self.learningRate) <= 1.0)",
            'learningRate must be above "0" and at most "1"',
        ),
        (
            "!has(self.revision) || !has(self.baseModel) || !self.baseModel.contains('://')",
            "revision goes with a hub id: leave it out where the base model is a URI",
        ),
    ),
    "ClusterStorageSpec": (
        (
            f"!has(self.endpointUrl) || (isURL(self.endpointUrl) && !self.endpointUrl.matches('{METADATA_HOST}'))",
            "endpointUrl must be a URL of an object store, not of a metadata service or a link-local address",
        ),
        (
            "!has(self.endpointUrl) || !self.endpointUrl.contains('@')",
            "endpointUrl must not hold a name or password: they belong into the Secret",
        ),
        (
            "!(has(self.caBundle) && has(self.caBundleConfigMapRef))",
            "give either storage.caBundle, a path in the image, or storage.caBundleConfigMapRef",
        ),
    ),
    "ScratchSpec": (
        ("!(has(self.size) && has(self.claimName))", "size is that of an emptyDir: leave it out beside claimName"),
    ),
    **POD_RULES,
}


def _unchanged(path: str, *, required: bool) -> str:
    """A rule that a part of the spec is as it was."""
    if required:
        return f"self.{path} == oldSelf.{path}"
    return f"has(self.{path}) == has(oldSelf.{path}) && (!has(self.{path}) || self.{path} == oldSelf.{path})"


def _immutable() -> tuple[tuple[str, str], ...]:
    """The inputs of a run never change; of the storage, only where credentials and certificates come from."""
    rules = []
    for name in INPUTS:
        if name == "storage":
            continue
        required = name in ("dataset", "output")
        why = f"{name} cannot be changed: it is an input of the run. Make a new {KIND} instead"
        rules.append((_unchanged(name, required=required), why))
    for name in (field.alias or key for key, field in StorageSpec.model_fields.items()):
        nothing = "false" if name == "requesterPays" else "''"
        there = f"has(%s.storage) && has(%s.storage.{name}) ? %s.storage.{name} : {nothing}"
        rule = f"({there % (('self',) * 3)}) == ({there % (('oldSelf',) * 3)})"
        rules.append((rule, f"storage.{name} cannot be changed: it is an input of the run. Make a new {KIND} instead"))
    return tuple(rules)


UNSEEN: Schema = {"observedGeneration": 0}
"""The status of an object that no operator has seen. Tools that wait for objects (kstatus: Flux, Helm, kpt) take one
without ``observedGeneration`` for one that is done; generations begin at 1, so this one is in progress."""

LIST_KEYS: Mapping[str, tuple[str, str]] = {
    "TeacherFineTuneSpec.teachers": ("map", "name"),
    "TeacherFineTuneSpec.imagePullSecrets": ("map", "name"),
    **POD_LIST_KEYS,
    "AugmentationSpec.characteristics": ("set", ""),
    "TeacherFineTuneStatus.conditions": ("map", "type"),
    "TeacherFineTuneStatus.teachers": ("map", "name"),
    "TeacherFineTuneStatus.stages": ("map", "name"),
    "TeacherStatus.attempts": ("map", "pod"),
    "TeacherStatus.metrics": ("map", "name"),
    "StageStatus.attempts": ("map", "pod"),
    "DatasetStatus.problems": ("map", "code"),
}
"""Lists whose items have a name, so that appliers of several parts do not overwrite each other; others are atomic."""

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
    """The CustomResourceDefinition."""
    spec, status = structural(TeacherFineTuneSpec), structural(TeacherFineTuneStatus) | {"default": UNSEEN}
    spec["x-kubernetes-validations"] += [_rule(*rule) for rule in _immutable()]
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
    """The structural schema of a model."""
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
    """One field, with what is said of it where it is used rather than where its type is defined."""
    said = schema.get("description")
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
    if said:
        result = {**result, "description": said}
    default = schema.get("default")
    if default is not None and not isinstance(default, dict | list):
        result["default"] = default
    return result


def _values(schema: Schema) -> Schema | None:
    """What the values of a map are; None of an object that may hold anything.

    There are no patterns of keys in a structural schema: they are checked by the model alone.
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
    """Writes out what occurs twice: not every reader knows anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def platform_fields_module() -> str:
    """Return the Python of ``engine/platform_fields.py``: the engine knows the names of platform fields alone."""
    groups = {"spec": PLATFORM, "spec.storage": PLATFORM_STORAGE}
    lines = [
        f'    "{path}": (\n' + "".join(f'        "{name}",\n' for name in sorted(names)) + "    ),\n"
        for path, names in groups.items()
    ]
    return PLATFORM_FIELDS_HEAD + "".join(lines) + "}\n"


def crd_yaml() -> str:
    """The text of the file in ``crds/``."""
    head = "# Generated from operator/teacher_operator/api/spec.py and status.py: `make crds` writes it.\n"
    return head + yaml.dump(crd(), Dumper=_PlainDumper, sort_keys=False, width=120, allow_unicode=True)


if __name__ == "__main__":
    sys.stdout.write(platform_fields_module() if sys.argv[1:] == ["platform-fields"] else crd_yaml())

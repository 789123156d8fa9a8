"""Reads a ``TeacherFineTune`` manifest, the same object that a cluster takes, or a ``StudentDistill``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from engine.errors import ConfigError
from engine.platform_fields import PLATFORM_FIELDS
from engine.spec import FineTuneSpec
from engine.spec.distill import DistillSpec
from engine.text.plain_yaml import Path, read_documents
from engine.text.pydantic_errors import nearest, parse

API_VERSION = "finetune.dev/v1alpha1"
KIND = "TeacherFineTune"

OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{,61}[a-z0-9])?")
ObjectName = Annotated[str, StringConstraints(min_length=1, max_length=63)]
"""A Kubernetes name: lower-case letters, digits, and ``-`` between them."""


class Named(BaseModel):
    """A named object."""

    model_config = ConfigDict(frozen=True)

    KIND: ClassVar[str]
    COMMAND: ClassVar[str]
    """Command that reads it."""

    name: ObjectName = Field(description="Artifacts go to <output>/<name>/<run id>/.")

    @field_validator("name", mode="before")
    @classmethod
    def _is_a_name(cls, name: object) -> object:
        if isinstance(name, str) and not OBJECT_NAME.fullmatch(name):
            raise ValueError("must be small letters and digits, with - between them, such as my-run")
        return name


class Manifest(Named):
    """A named request to tune teachers."""

    KIND: ClassVar[str] = KIND
    COMMAND: ClassVar[str] = "teacher run"

    spec: FineTuneSpec


class DistillManifest(Named):
    """A named request to train a student."""

    KIND: ClassVar[str] = "StudentDistill"
    COMMAND: ClassVar[str] = "teacher distill"

    spec: DistillSpec


M = TypeVar("M", bound=Manifest | DistillManifest)


def load_manifest(text: str | bytes, *, where: str) -> Manifest:
    """Read one ``TeacherFineTune``.

    Args:
        text: YAML of one object, in UTF-8 where it is bytes.
        where: Name of the text in messages, e.g. its path.

    Raises:
        ConfigError: The text is not YAML, is another kind of object, or has invalid settings.
    """
    return load(Manifest, text, where=where)


def load(kind: type[M], text: str | bytes, *, where: str) -> M:
    """Read one object of a kind, like :func:`load_manifest`."""
    documents = read_documents(text, where=where)
    if len(documents) != 1 or not isinstance(documents[0].value, Mapping):
        raise ConfigError(f"{where} must hold one {kind.KIND} object, found {len(documents)} documents")
    document, manifest = documents[0], documents[0].value
    for key, expected in (("apiVersion", API_VERSION), ("kind", kind.KIND)):
        if manifest.get(key) != expected:
            found = str(manifest.get(key))[:80]
            other = next((one for one in (Manifest, DistillManifest) if key == "kind" and found == one.KIND), None)
            advice = "" if other is None else f": {other.COMMAND} reads it"
            raise ConfigError(f"{where}: {key} must be {expected!r}, found {found!r}{advice}")
    known = ["apiVersion", "kind", "metadata", "spec", "status"]
    for key in manifest:
        if key not in known:
            line = document.line((key,))
            raise ConfigError(f"{where}, line {line}: there is no setting {key[:80]!r}{nearest(key[:80], known)}")
    metadata, spec = manifest.get("metadata"), manifest.get("spec")
    if not isinstance(metadata, Mapping) or not isinstance(spec, Mapping):
        raise ConfigError(f"{where}: metadata.name and spec are required")
    data = {"name": metadata.get("name"), "spec": _without_platform(spec)}

    def line_of(path: Path) -> int | None:
        return document.line(("metadata", *path) if path[:1] == ("name",) else path)

    return parse(kind, data, where=where, strict=True, line_of=line_of)


def _without_platform(fields: Mapping[str, Any], path: str = "spec") -> dict[str, Any]:
    """Remove the fields that concern the cluster: the API server checks them, the command line ignores them."""
    kept = {key: inner for key, inner in fields.items() if key not in PLATFORM_FIELDS.get(path, ())}
    groups = {key: f"{path}.{key}" for key, inner in kept.items() if isinstance(inner, Mapping)}
    return kept | {
        key: _without_platform(kept[key], inner) for key, inner in groups.items() if inner in PLATFORM_FIELDS
    }

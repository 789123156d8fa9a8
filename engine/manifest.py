"""Reads a ``TeacherFineTune`` manifest: the same object that a cluster takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from engine.errors import ConfigError
from engine.spec import FineTuneSpec
from engine.validation import nearest, parse

API_VERSION = "finetune.dev/v1alpha1"
KIND = "TeacherFineTune"

PLATFORM_FIELDS = frozenset(
    {
        "activeDeadlineSeconds",
        "affinity",
        "backoffLimit",
        "gpuResourceName",
        "gpus",
        "imagePullSecrets",
        "modelCache",
        "nodeSelector",
        "nodes",
        "pendingDeadlineSeconds",
        "priorityClassName",
        "queueName",
        "resources",
        "runtimeClassName",
        "scratch",
        "serviceAccountName",
        "sharedMemory",
        "suspend",
        "tolerations",
        "ttlSecondsAfterFinished",
    }
)
"""Settings of ``spec`` that only a cluster has: it checks them, one machine passes them over."""

PLATFORM_STORAGE_FIELDS = frozenset({"credentialsSecretRef"})
"""The same for ``spec.storage``."""


class Manifest(BaseModel):
    """A named request."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    spec: FineTuneSpec


def load_manifest(text: str, *, where: str) -> Manifest:
    """Read one manifest.

    Args:
        text: YAML of one object.
        where: What the text is called in messages, e.g. its path.

    Raises:
        ConfigError: The text is no YAML, is another kind of object, or has settings that are wrong.
    """
    try:
        documents = [d for d in yaml.safe_load_all(text) if d is not None]
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not YAML: {error}") from None
    if len(documents) != 1 or not isinstance(documents[0], Mapping):
        raise ConfigError(f"{where} must hold one {KIND} object, found {len(documents)} documents")
    document = documents[0]
    for key, expected in (("apiVersion", API_VERSION), ("kind", KIND)):
        if document.get(key) != expected:
            raise ConfigError(f"{where}: {key} must be {expected!r}, found {document.get(key)!r}")
    known = ["apiVersion", "kind", "metadata", "spec", "status"]
    for key in document:
        if key not in known:
            raise ConfigError(f"{where}: there is no setting {key!r}{nearest(str(key), known)}")
    metadata, spec = document.get("metadata"), document.get("spec")
    if not isinstance(metadata, Mapping) or not isinstance(spec, Mapping):
        raise ConfigError(f"{where}: metadata.name and spec are required")
    data = {"name": metadata.get("name"), "spec": _without_platform(spec)}
    return parse(Manifest, data, where=where, strict=True)


def _without_platform(spec: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in spec.items() if key not in PLATFORM_FIELDS}
    if isinstance(kept.get("storage"), Mapping):
        kept["storage"] = {k: v for k, v in kept["storage"].items() if k not in PLATFORM_STORAGE_FIELDS}
    return kept

"""Settings of an installation of the operator, from ``TEACHER_*`` variables of its environment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from engine.spec import SpecModel
from teacher_operator.api.pod_settings import EnvSource, PodSettings
from teacher_operator.api.quantities import QUANTITY, parse_quantity

PREFIX = "TEACHER_"
LABEL_KEY = r"^(([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"


class SettingsError(Exception):
    """Raised for missing or invalid variables of the environment."""


Patterns = tuple[Annotated[str, Field(min_length=1, max_length=512)], ...]
"""Patterns of allowed names, with ``*`` and ``?``; an empty list allows no name."""


class Allowed(SpecModel):
    """Values that objects may set, by patterns of names: :mod:`teacher_operator.decide.allow_lists` checks them."""

    images: Patterns = Field(default=("*",), description="Images of pods, next to those of the installation.")
    volumes: Patterns = Field(default=("*",), description="Kinds of volumes: configMap, secret, csi …")
    env: Patterns = Field(default=("*",), description="Names of variables.")
    secrets: Patterns = Field(default=("*",), description="Secrets that variables, volumes and stores read.")
    service_accounts: Patterns = Field(
        default=("*",), description="Service accounts, or `namespace/name`; a run that names none has `default`."
    )
    tolerations: Patterns = Field(
        default=("*",), description="Taints: `key`, `key=value`, `key:effect` or `key=value:effect`."
    )
    node_selectors: Patterns = Field(
        default=("*",), description="Labels of nodes, `key` or `key=value`, in selectors and node affinities."
    )
    priority_classes: Patterns = Field(default=("*",), description="Priority classes.")
    runtime_classes: Patterns = Field(default=("*",), description="Runtime classes.")
    scratch: Annotated[str, Field(pattern=f"{QUANTITY}|^$")] = Field(
        default="", description="Largest emptyDir, of the scratch disk and of volumes; empty: no limit."
    )


class Settings(BaseModel):
    """Settings of the operator. Lists are separated by commas, maps are JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    operator_image: str = Field(min_length=1, description="Image of the operator; inspection runs in it too.")
    trainer_image: str = Field(min_length=1, description="Image of the trainer.")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="When nodes pull the images of pods that are created."
    )
    namespaces: tuple[str, ...] = Field(default=(), description="Namespaces that are watched; none: all.")
    pod_env: dict[str, str | EnvSource] = Field(
        default={},
        description="Variables of every pod that is created: proxies, HF_ENDPOINT, AWS_ENDPOINT_URL …; the value, or "
        "the secretKeyRef or configMapKeyRef that it comes from.",
    )
    pods: PodSettings = Field(
        default=PodSettings(),
        description="Labels, annotations, volumes and placement of every pod that is created; objects add to them.",
    )
    inspect_resources: dict[str, dict[str, str]] = Field(
        default={"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}},
        description="Resources of inspection.",
    )
    trainer_resources: dict[str, dict[str, str]] = Field(
        default={"requests": {"cpu": "4", "memory": "16Gi"}, "limits": {"memory": "32Gi"}},
        description="Resources of a trainer where the object sets none; the GPUs come on top.",
    )
    scratch_size: str = Field(
        default="100Gi",
        pattern=QUANTITY,
        description="Most that the scratch disk (an emptyDir) of a pod may hold where the object sets no size; "
        "inspection has one too.",
    )
    allowed: Allowed = Field(default=Allowed(), description="What objects may set.")
    ca_bundle_config_map: str = Field(
        default="",
        description="ConfigMap, in the namespace of each run, with the certificate authorities that its pods trust in "
        "place of the usual ones; none: the usual ones.",
    )
    ca_bundle_key: str = Field(default="ca.crt", description="Key of that ConfigMap.")
    gang_timeout_seconds: Annotated[float, Field(ge=1, le=1800)] = Field(
        default=300,
        description="With several nodes, and no queue of Kueue: how long some pods may hold GPUs while others cannot "
        "start; spec.gangTimeoutSeconds of an object overrides it.",
    )
    allowed_endpoints: tuple[str, ...] = Field(
        default=(), description="Host names that storage.endpointUrl may name, `*.example.com` too; none: all."
    )
    run_network_policy: bool = Field(
        default=False, description="Create a NetworkPolicy for each run: only pods of the run can reach its pods."
    )
    run_egress: tuple[dict[str, Any], ...] = Field(
        default=(),
        description="Egress rules of these policies, as JSON, in addition to DNS and the run's own pods; none: all "
        "egress is allowed.",
    )
    log_format: Literal["json", "text"] = Field(
        default="json", description="Log format: json for machines, text for people."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Lowest level that is logged."
    )
    port: Annotated[int, Field(ge=1, le=65535)] = Field(
        default=8080, description="Port of /metrics, /healthz and /readyz."
    )
    metrics_authentication: bool = Field(
        default=False,
        description="Require a token at /metrics, from an account that may get the nonResourceURL /metrics.",
    )
    metrics_tls: str = Field(
        default="", description="Folder with tls.crt and tls.key, for HTTPS on the port; none: plain HTTP."
    )
    metrics_label: str = Field(
        default="",
        max_length=317,
        pattern=LABEL_KEY,
        description="Label of the objects, such as `cost-center`, that the metrics of runs carry as "
        "`label_cost_center`, in addition to the namespace; empty: none.",
    )
    workers: Annotated[int, Field(ge=1, le=256)] = Field(
        default=16, description="Number of objects that are reconciled in parallel."
    )
    progress_seconds: Annotated[float, Field(ge=1)] = Field(
        default=15, description="Seconds between two reads of a trainer's progress, and between two writes of it."
    )
    resync_seconds: Annotated[float, Field(ge=10)] = Field(
        default=600, description="Seconds between two full resyncs, which find changes that no watch has reported."
    )
    leader_election: bool = Field(default=False, description="Reconcile only while holding the Lease.")
    lease_name: str = Field(default="teacher-operator", description="The Lease, in the operator's namespace.")
    pod_name: str = Field(
        default="teacher-operator", description="Name of the operator's own pod, which is its identity in the Lease."
    )
    pod_namespace: str = Field(default="default", description="The namespace of the operator's own pod.")

    @field_validator("namespaces", "allowed_endpoints", mode="before")
    @classmethod
    def _from_commas(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("pod_env", "pods", "allowed", "inspect_resources", "trainer_resources", mode="before")
    @classmethod
    def _from_json(cls, value: Any) -> Any:
        return json.loads(value) if isinstance(value, str) else value

    @field_validator("run_egress", mode="before")
    @classmethod
    def _rules(cls, value: Any) -> Any:
        return json.loads(value or "[]") if isinstance(value, str) else value

    @field_validator("pods")
    @classmethod
    def _reject_duplicates(cls, pods: PodSettings) -> PodSettings:
        """Reject fields of pods that other settings set."""
        for name, instead in (("env", "pod_env"), ("image", "trainer_image and operator_image")):
            if getattr(pods, name) is not None:
                raise ValueError(f"{name} cannot be set for all pods here: use {instead}")
        return pods

    @field_validator("allowed")
    @classmethod
    def _scratch_is_allowed(cls, allowed: Allowed, info: ValidationInfo) -> Allowed:
        size = info.data.get("scratch_size")
        if size and allowed.scratch and parse_quantity(size) > parse_quantity(allowed.scratch):
            raise ValueError(f"scratch is {allowed.scratch}, and the default of {size} (scratch_size) is larger")
        return allowed

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read ``TEACHER_<NAME>`` for every field.

        Raises:
            SettingsError: Variables are missing or invalid; one line each.
        """
        given = {
            name: environment[variable]
            for name in cls.model_fields
            if (variable := PREFIX + name.upper()) in environment
        }
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            faults: dict[str, str] = {}
            for fault in error.errors():
                name, *inner = map(str, fault["loc"])
                where = f"{'.'.join(inner)}: " if inner else ""
                faults.setdefault(name, f"{PREFIX}{name.upper()}: {where}{fault['msg']}")
            raise SettingsError("\n".join(faults.values())) from None

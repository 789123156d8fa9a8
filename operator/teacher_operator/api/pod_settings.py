"""Settings of the pods of a run: for all its stages (``spec.pod``), for one of them (``spec.stages``), and as the
default of an installation. Pure.

The names and meanings are those of a pod. hostPath and other containers are not supported.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, StringConstraints, field_validator

from engine.spec import SpecModel
from engine.stages import all_stages
from teacher_operator.api.kubernetes_strings import DataKey, DnsLabel, LabelKey, LabelValue, Name, NameOrNone, Quantity
from teacher_operator.api.pod_volumes import Volume, VolumeMount

RESERVED_LABELS = (
    r"^(finetune\.dev|batch\.kubernetes\.io)/"
    r"|^(app\.kubernetes\.io/managed-by|controller-uid|job-name"
    r"|kueue\.x-k8s\.io/(queue-name|priority-class))$"
)
"""Pattern of labels by which the operator, the Job controller and Kueue select objects."""

RESERVED_ENV = (
    r"^(TEACHER_.*|AWS_ENDPOINT_URL.*|AWS_(DEFAULT_)?REGION|(AWS|REQUESTS)_CA_BUNDLE|SSL_CERT_FILE|HOME|TMPDIR|HF_HOME"
    r"|AZURE_(STORAGE_(ACCOUNT_NAME|ENDPOINT)|AUTHORITY_HOST)|GOOGLE_CLOUD_QUOTA_PROJECT|JOB_COMPLETION_INDEX)$"
)
"""Pattern of variables that the operator sets from other fields of the object, or that name hosts of a cloud."""

LABELS_MESSAGE = "labels of the operator, of Jobs and of Kueue's queues cannot be set"
ANNOTATIONS_MESSAGE = "annotations of finetune.dev cannot be set"
ENV_MESSAGE = "this variable follows from another field of the spec (storage, gpus, modelCache): set that instead"


class StageName(StrEnum):
    """Stage of a run: each is a Job. The inspection comes first, then the training of each teacher by its name."""

    _ignore_ = "stage"
    for stage in all_stages():
        locals()[stage.slug.upper()] = stage.name


class TolerationOperator(StrEnum):
    """Match of a toleration with a taint."""

    EXISTS = "Exists"
    EQUAL = "Equal"


class TaintEffect(StrEnum):
    """Effect of a taint on pods that do not tolerate it."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class Toleration(SpecModel):
    """A taint of nodes that the pods tolerate."""

    key: LabelKey | None = Field(
        default=None, description="Key of the taint; without a key, Exists matches every taint."
    )
    operator: TolerationOperator | None = Field(default=None, description="Default: Equal.")
    value: LabelValue | None = Field(default=None, description="Value of the taint.")
    effect: TaintEffect | None = Field(default=None, description="Default: every effect.")
    toleration_seconds: int | None = Field(
        default=None,
        ge=0,
        le=31_536_000,
        description="Seconds for which NoExecute is tolerated; default: without limit.",
    )


class ResourcesSpec(SpecModel):
    """CPU and memory of a pod. The GPUs are `gpus`."""

    requests: dict[LabelKey, Quantity] = Field(default={}, max_length=16, description="Reserved amounts.")
    limits: dict[LabelKey, Quantity] = Field(default={}, max_length=16, description="Upper limits.")


class KeySelector(SpecModel):
    """A key of a Secret or ConfigMap in the namespace of the object."""

    name: Name = Field(description="Name of the Secret or ConfigMap.")
    key: DataKey = Field(description="Key of the value.")
    optional: bool | None = Field(default=None, description="True: the variable is left out if the key is missing.")


class EnvSource(SpecModel):
    """Source of the value of a variable."""

    secret_key_ref: KeySelector | None = Field(default=None, description="A key of a Secret.")
    config_map_key_ref: KeySelector | None = Field(default=None, description="A key of a ConfigMap.")


class EnvVar(SpecModel):
    """A variable of the environment."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = Field(
        description="Name of the variable."
    )
    value: Annotated[str, StringConstraints(max_length=4096)] | None = Field(
        default=None, description="Value of the variable; put passwords into a Secret instead."
    )
    value_from: EnvSource | None = Field(default=None, description="Source of the value.")


class ResourceClaim(SpecModel):
    """Devices by dynamic resource allocation (Kubernetes 1.34 or newer)."""

    name: DnsLabel = Field(description="Name of the claim in the pod.")
    resource_claim_name: Name | None = Field(default=None, description="A ResourceClaim that the pods share.")
    resource_claim_template_name: Name | None = Field(
        default=None, description="A ResourceClaimTemplate: each pod gets a claim of its own."
    )
    gpus: int = Field(
        default=1,
        ge=0,
        le=64,
        description="Number of GPUs that the claim gives to a pod, with one training process each; 0: other devices.",
    )


class WhenUnsatisfiable(StrEnum):
    """Action of the scheduler on a pod that violates a spread."""

    DO_NOT_SCHEDULE = "DoNotSchedule"
    SCHEDULE_ANYWAY = "ScheduleAnyway"


class InclusionPolicy(StrEnum):
    """Treatment by a spread of nodes that the pod may not run on."""

    HONOR = "Honor"
    IGNORE = "Ignore"


class LabelSelectorOperator(StrEnum):
    """Comparison of the values of a label."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class LabelRequirement(SpecModel):
    """A condition on a label."""

    key: LabelKey = Field(description="Key of the label.")
    operator: LabelSelectorOperator = Field(description="Comparison of its values.")
    values: list[LabelValue] | None = Field(default=None, max_length=32, description="Values, with In and NotIn.")


class LabelSelector(SpecModel):
    """Pods by their labels."""

    match_labels: dict[LabelKey, LabelValue] | None = Field(
        default=None, max_length=16, description="Labels with their values."
    )
    match_expressions: list[LabelRequirement] | None = Field(
        default=None, max_length=16, description="More conditions."
    )


class TopologySpread(SpecModel):
    """Spread of pods over the nodes, zones or racks of a cluster."""

    max_skew: int = Field(
        default=1, ge=1, le=64, description="Largest difference of the number of pods between two domains."
    )
    topology_key: LabelKey = Field(description="Label of nodes whose values are the domains.")
    when_unsatisfiable: WhenUnsatisfiable = Field(description="Treatment of a pod that violates the spread everywhere.")
    label_selector: LabelSelector | None = Field(
        default=None, description="Pods that are counted; default: those of the same Job."
    )
    match_label_keys: list[LabelKey] | None = Field(
        default=None, max_length=8, description="Labels whose values must be equal for pods to be counted together."
    )
    min_domains: int | None = Field(default=None, ge=1, le=1024, description="Least number of domains.")
    node_affinity_policy: InclusionPolicy | None = Field(default=None, description="Default: Honor.")
    node_taints_policy: InclusionPolicy | None = Field(default=None, description="Default: Ignore.")


Image = Annotated[
    str,
    StringConstraints(min_length=1, max_length=512, pattern=r"^[A-Za-z0-9][-A-Za-z0-9._:/]*(@[a-z0-9]+:[a-f0-9]+)?$"),
]
"""Image reference: registry, repository, and tag or digest."""


class PodSpec(SpecModel):
    """Settings of the pods of all stages, next to those of the placement."""

    labels: dict[LabelKey, LabelValue] | None = Field(
        default=None, max_length=32, description="Labels of the pods and Jobs."
    )
    annotations: dict[LabelKey, Annotated[str, StringConstraints(max_length=4096)]] | None = Field(
        default=None, max_length=32, description="Annotations of the pods and Jobs."
    )
    env: list[EnvVar] | None = Field(default=None, max_length=64, description="Variables of the container.")
    volumes: list[Volume] | None = Field(default=None, max_length=16, description="Volumes of the pods.")
    volume_mounts: list[VolumeMount] | None = Field(
        default=None, max_length=32, description="Mounts of the volumes in the container."
    )
    image: Image | None = Field(
        default=None,
        description="Image in place of that of the installation; it must contain the same version of teacher.",
    )
    scheduler_name: NameOrNone | None = Field(default=None, description="Scheduler of the pods.")
    topology_spread_constraints: list[TopologySpread] | None = Field(
        default=None, max_length=8, description="Spread of the pods over the cluster."
    )
    resource_claims: list[ResourceClaim] | None = Field(
        default=None, max_length=8, description="Devices from dynamic resource allocation, for trainers."
    )

    @field_validator("labels")
    @classmethod
    def _labels_are_the_users(cls, labels: dict[str, str] | None) -> dict[str, str] | None:
        return _none_reserved(labels, RESERVED_LABELS, LABELS_MESSAGE)

    @field_validator("annotations")
    @classmethod
    def _annotations_are_the_users(cls, annotations: dict[str, str] | None) -> dict[str, str] | None:
        return _none_reserved(annotations, r"^finetune\.dev/", ANNOTATIONS_MESSAGE)


class PodSettings(PodSpec):
    """Settings of pods, including the placement."""

    node_selector: dict[LabelKey, LabelValue] | None = Field(
        default=None, max_length=32, description="Labels of the nodes; {}: any node."
    )
    affinity: dict[str, Any] | None = Field(default=None, description="Affinity, as in a pod; {}: none.")
    tolerations: list[Toleration] | None = Field(
        default=None, max_length=32, description="Taints that are tolerated; []: none."
    )
    runtime_class_name: NameOrNone | None = Field(default=None, description='Runtime class; "": that of the cluster.')
    priority_class_name: NameOrNone | None = Field(default=None, description='Priority class; "": that of the cluster.')


class StageSpec(PodSettings):
    """Settings of the pods of one stage that differ from the run's.

    Labels, annotations, variables, volumes and mounts are added to those of the run by their names; any other setting
    takes the place of the run's.
    """

    name: StageName = Field(description="Name of the stage.")
    resources: ResourcesSpec | None = Field(default=None, description="CPU and memory of its pods.")


def _none_reserved(given: dict[str, str] | None, reserved: str, message: str) -> dict[str, str] | None:
    taken = [name for name in given or () if re.search(reserved, name)]
    if taken:
        raise ValueError(f"{message}: {', '.join(taken)}")
    return given

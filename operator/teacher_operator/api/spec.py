"""Models of the object's spec: the request of ``engine.spec``, and the platform settings of a cluster.

The CRD is generated only from these models (:mod:`teacher_operator.api.crd`). The inputs of a run never change;
platform settings may change while it runs, and the operator applies them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, StrEnum
from typing import Annotated, Any

from pydantic import Field

from engine.manifest import API_VERSION, KIND
from engine.spec import FineTuneSpec, SpecModel, StorageSpec, TeacherName
from teacher_operator.api.kubernetes_strings import DataKey, LabelKey, LabelValue, Name, Quantity
from teacher_operator.api.pod_settings import PodSpec, ResourcesSpec, StageSpec, Toleration

GROUP, VERSION = API_VERSION.split("/")
PLURAL = "teacherfinetunes"

__all__ = ["API_VERSION", "GROUP", "KIND", "PLURAL", "VERSION", "TeacherFineTuneSpec", "parse_spec"]

MOST_NODES = 64

NAME_MAX = 63 - max(len(f"-{name.slug}-{MOST_NODES - 1}") for name in TeacherName)
"""Longest name of an object, in characters: the longest suffix of a child and a pod's index must fit into 63."""


class OnChange(Enum):
    """Mark of a field that concerns the cluster and not the training; its value is the effect of a change.

    Such a field has no part in the run id and may be changed during a run; the command line ignores it. Fields without
    a mark are inputs of the run.
    """

    NEW_JOB = "a new Job replaces the trainer's, and resumes"
    IN_PLACE = "existing Jobs are changed, or need no change"


class SecretRef(SpecModel):
    """A Secret in the namespace of the object."""

    name: Name = Field(
        description="Name of the Secret. For s3://: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, if needed, "
        "AWS_SESSION_TOKEN; for gs://: GOOGLE_SERVICE_ACCOUNT_KEY; for az://: AZURE_STORAGE_ACCOUNT_KEY, "
        "AZURE_STORAGE_SAS_TOKEN, or AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET; for all: HF_TOKEN."
    )


class ConfigMapKeyRef(SpecModel):
    """A key of a ConfigMap in the namespace of the object."""

    name: Name = Field(description="Name of the ConfigMap.")
    key: DataKey = Field(default="ca.crt", description="Key of the certificates, in PEM.")


class ClusterStorageSpec(StorageSpec):
    """Access to object storage: keyless with the service account, or with a Secret that the pods read."""

    credentials_secret_ref: Annotated[SecretRef | None, OnChange.NEW_JOB] = Field(
        default=None, description="Secret with access keys; default: the identity of the service account."
    )
    ca_bundle_config_map_ref: Annotated[ConfigMapKeyRef | None, OnChange.NEW_JOB] = Field(
        default=None,
        description="ConfigMap with certificate authorities for the store and the model hub, in place of the usual "
        "ones; default: that of the installation, if it has one.",
    )


class PullSecret(SpecModel):
    """A Secret to pull images with, in the namespace of the object."""

    name: Name = Field(description="Name of the Secret.")


class ScratchSpec(SpecModel):
    """Disk for images and checkpoints while a trainer runs."""

    size: Quantity | None = Field(
        default=None,
        description="Size limit of the emptyDir, also for inspection; default: scratchSize of the installation.",
    )
    claim_name: Name | None = Field(default=None, description="A PersistentVolumeClaim instead of an emptyDir.")


class JobManager(StrEnum):
    """Controller of a Job in place of the Job controller of this cluster."""

    MULTIKUEUE = "kueue.x-k8s.io/multikueue"


class ModelCacheSpec(SpecModel):
    """Cache of base models that runs share."""

    claim_name: Name = Field(description="A PersistentVolumeClaim that several runs may mount.")


class TeacherFineTuneSpec(FineTuneSpec):
    """Request of a user: only `dataset` and `output` are required."""

    storage: ClusterStorageSpec = Field(
        default=ClusterStorageSpec(), description="Access to object storage, and its identity."
    )
    service_account_name: Annotated[Name | None, OnChange.NEW_JOB] = Field(
        default=None, description="Service account of the pods, whose cloud identity reads and writes the data."
    )
    gpus: Annotated[int, OnChange.NEW_JOB] = Field(
        default=1, ge=0, le=64, description="Number of GPUs on each node of a trainer."
    )
    nodes: Annotated[int, OnChange.NEW_JOB] = Field(
        default=1, ge=1, le=MOST_NODES, description="Number of nodes of each trainer."
    )
    gpu_resource_name: Annotated[LabelKey, OnChange.NEW_JOB] = Field(
        default="nvidia.com/gpu", description="Resource that counts GPUs: a MIG profile, or another vendor's."
    )
    node_selector: Annotated[dict[LabelKey, LabelValue], OnChange.NEW_JOB] = Field(
        default={}, max_length=32, description="Labels of the nodes that the pods may run on."
    )
    affinity: Annotated[dict[str, Any] | None, OnChange.NEW_JOB] = Field(
        default=None, description="Affinity of the pods, as in a pod: nodeAffinity, podAffinity, podAntiAffinity."
    )
    tolerations: Annotated[list[Toleration], OnChange.NEW_JOB] = Field(
        default=[], max_length=32, description="Taints that the pods tolerate."
    )
    runtime_class_name: Annotated[Name | None, OnChange.NEW_JOB] = Field(
        default=None, description="Runtime class of the pods, such as nvidia."
    )
    priority_class_name: Annotated[Name | None, OnChange.NEW_JOB] = Field(
        default=None, description="Priority class of the pods."
    )
    resources: Annotated[ResourcesSpec, OnChange.NEW_JOB] = Field(
        default=ResourcesSpec(), description="CPU and memory of a trainer."
    )
    pod: Annotated[PodSpec, OnChange.NEW_JOB] = Field(
        default=PodSpec(), description="Labels, variables, volumes and other settings of the pods of all stages."
    )
    stages: Annotated[list[StageSpec], OnChange.NEW_JOB] = Field(
        default=[],
        max_length=16,
        description="Settings of the pods of one stage that differ from the run's: the fields of pod, and the "
        "placement.",
    )
    shared_memory: Annotated[Quantity | None, OnChange.NEW_JOB] = Field(
        default=None, description="Size of /dev/shm, which counts as memory; default: 2Gi."
    )
    scratch: Annotated[ScratchSpec, OnChange.NEW_JOB] = Field(
        default=ScratchSpec(), description="Disk of a trainer; default: an emptyDir."
    )
    model_cache: Annotated[ModelCacheSpec | None, OnChange.NEW_JOB] = Field(
        default=None, description="Cache of base models that runs share."
    )
    image_pull_secrets: Annotated[list[PullSecret], OnChange.NEW_JOB] = Field(
        default=[], max_length=16, description="Secrets for pulling images."
    )
    queue_name: Annotated[LabelValue | None, OnChange.NEW_JOB] = Field(
        default=None, description="Kueue's LocalQueue for the trainers."
    )
    workload_priority_class_name: Annotated[LabelValue | None, OnChange.NEW_JOB] = Field(
        default=None,
        description="Kueue's WorkloadPriorityClass of the trainers: their order in the queue, not that of their pods.",
    )
    managed_by: Annotated[JobManager | None, OnChange.NEW_JOB] = Field(
        default=None,
        description="Who runs the trainers' Jobs: MultiKueue sends them to other clusters; default: this cluster.",
    )
    suspend: Annotated[bool, OnChange.IN_PLACE] = Field(
        default=False, description="Stop at a checkpoint and release the GPUs; false: resume from there."
    )
    backoff_limit: Annotated[int, OnChange.IN_PLACE] = Field(
        default=3, ge=0, le=100, description="Number of retries of a failed trainer; disruptions do not count."
    )
    active_deadline_seconds: Annotated[int | None, OnChange.IN_PLACE] = Field(
        default=None,
        ge=60,
        le=31_536_000,
        description="Longest training time of each teacher, over all of its retries and Jobs: the seconds in which its "
        "Job is allowed to run, including waiting for a node, excluding the time in which it is suspended, queued by "
        "Kueue or replaced. Default: no limit.",
    )
    pending_deadline_seconds: Annotated[int | None, OnChange.IN_PLACE] = Field(
        default=None,
        ge=30,
        le=31_536_000,
        description="Longest wait of inspection or of a trainer until it runs: for a node, a GPU, an image, a Secret, "
        "or "
        "while its Job is refused; time in a Kueue queue does not count. Default: no limit.",
    )
    gang_timeout_seconds: Annotated[int | None, OnChange.IN_PLACE] = Field(
        default=None,
        ge=30,
        le=1800,
        description="With several nodes and no Kueue queue: how long some pods may hold GPUs while others cannot "
        "start, "
        "before all release theirs and retry later; default: that of the installation, 300.",
    )
    ttl_seconds_after_finished: Annotated[int | None, OnChange.IN_PLACE] = Field(
        default=None,
        ge=0,
        le=31_536_000,
        description="Seconds after the end of a run until its Jobs are removed; default: never.",
    )


def platform_fields(model: type[SpecModel], *effects: OnChange) -> tuple[str, ...]:
    """Return the names, in manifests, of the fields with a mark: with any of ``effects``, or with any at all."""
    return tuple(
        field.alias or name
        for name, field in model.model_fields.items()
        if any(mark in (effects or OnChange) for mark in field.metadata if isinstance(mark, OnChange))
    )


PLATFORM = platform_fields(TeacherFineTuneSpec)
"""Fields of the spec that determine where and how a run is executed."""

PLATFORM_STORAGE = platform_fields(ClusterStorageSpec)
"""Platform fields of ``spec.storage``."""

APPLIED_TO_JOBS = frozenset(platform_fields(TeacherFineTuneSpec, OnChange.IN_PLACE))

INPUTS = tuple(
    alias for name, field in TeacherFineTuneSpec.model_fields.items() if (alias := field.alias or name) not in PLATFORM
)
"""Fields of the spec that determine the result of a run: they never change after an object is created."""


def parse_spec(body: Mapping[str, Any]) -> TeacherFineTuneSpec:
    """Return the spec of an object that the API server has validated.

    Raises:
        pydantic.ValidationError: The spec does not match the models, as with another version of the CRD.
    """
    return TeacherFineTuneSpec.model_validate(body.get("spec") or {}, by_alias=True, by_name=False)

"""The object: what ``engine.spec`` asks for, what only a cluster has, and the rules that the API server checks.

The CRD is generated from these models alone (:mod:`teacher_operator.api.crd`). The inputs of a run never change; what
says how and where it runs may, and is acted on.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pydantic import Field

from engine.manifest import API_VERSION, KIND
from engine.spec import FineTuneSpec, SpecModel, StorageSpec
from teacher_operator.api.kube_types import DataKey, LabelKey, LabelValue, Name, Quantity
from teacher_operator.api.pod_settings import PodSpec, ResourcesSpec, StageSpec, Toleration

GROUP, VERSION = API_VERSION.split("/")
PLURAL = "teacherfinetunes"

__all__ = ["API_VERSION", "GROUP", "KIND", "PLURAL", "VERSION", "TeacherFineTuneSpec", "parse_spec"]

NAME_MAX = 45
"""Of an object's name: the longest suffix of a child and a pod's index have to fit into 63 characters."""


class SecretRef(SpecModel):
    """A Secret in the namespace of the object."""

    name: Name = Field(
        description="Name of the Secret. For s3://: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, where needed, "
        "AWS_SESSION_TOKEN; for gs://: GOOGLE_SERVICE_ACCOUNT_KEY; for az://: AZURE_STORAGE_ACCOUNT_KEY, "
        "AZURE_STORAGE_SAS_TOKEN, or AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET; for all: HF_TOKEN."
    )


class ConfigMapKeyRef(SpecModel):
    """A key of a ConfigMap in the namespace of the object."""

    name: Name = Field(description="Name of the ConfigMap.")
    key: DataKey = Field(default="ca.crt", description="Key that holds the certificates, in PEM.")


class ClusterStorageSpec(StorageSpec):
    """How object storage is reached: keyless by the service account, or with a Secret that the pods read."""

    credentials_secret_ref: SecretRef | None = Field(
        default=None, description="Secret with access keys; default: the identity of the service account."
    )
    ca_bundle_config_map_ref: ConfigMapKeyRef | None = Field(
        default=None,
        description="ConfigMap with the certificate authorities that the store and the model hub are trusted by, in "
        "place of the usual ones; default: that of the installation, if it has one.",
    )


class PullSecret(SpecModel):
    """A Secret to pull images with, in the namespace of the object."""

    name: Name = Field(description="Name of the Secret.")


class ScratchSpec(SpecModel):
    """Where images and checkpoints lie while a trainer runs."""

    size: Quantity | None = Field(
        default=None,
        description="Most that an emptyDir may hold, also that of the inspection; default: scratchSize of the "
        "installation.",
    )
    claim_name: Name | None = Field(default=None, description="A PersistentVolumeClaim instead of an emptyDir.")


class JobManager(StrEnum):
    """Controller of a Job in place of the Job controller of this cluster."""

    MULTIKUEUE = "kueue.x-k8s.io/multikueue"


class ModelCacheSpec(SpecModel):
    """Where base models are kept from run to run."""

    claim_name: Name = Field(description="A PersistentVolumeClaim that several runs may mount.")


class TeacherFineTuneSpec(FineTuneSpec):
    """What a user asks for: only `dataset` and `output` are required."""

    storage: ClusterStorageSpec = Field(
        default=ClusterStorageSpec(), description="How object storage is reached, and with what identity."
    )
    service_account_name: Name | None = Field(
        default=None, description="Service account of the pods, whose cloud identity reads and writes the data."
    )
    gpus: int = Field(default=1, ge=0, le=64, description="GPUs of each node of a trainer.")
    nodes: int = Field(default=1, ge=1, le=64, description="Nodes of each trainer.")
    gpu_resource_name: LabelKey = Field(
        default="nvidia.com/gpu", description="Resource that counts GPUs: a MIG profile, or another vendor's."
    )
    node_selector: dict[LabelKey, LabelValue] = Field(
        default={}, max_length=32, description="Labels of the nodes that the pods may run on."
    )
    affinity: dict[str, Any] | None = Field(
        default=None, description="Affinity of the pods, as in a pod: nodeAffinity, podAffinity, podAntiAffinity."
    )
    tolerations: list[Toleration] = Field(default=[], max_length=32, description="Taints that the pods tolerate.")
    runtime_class_name: Name | None = Field(default=None, description="Runtime class of the pods, such as nvidia.")
    priority_class_name: Name | None = Field(default=None, description="Priority class of the pods.")
    resources: ResourcesSpec = Field(default=ResourcesSpec(), description="CPU and memory of a trainer.")
    pod: PodSpec = Field(
        default=PodSpec(), description="Labels, variables, volumes and more, of the pods of all stages."
    )
    stages: list[StageSpec] = Field(
        default=[],
        max_length=3,
        description="Settings of the pods of one stage, where they differ from the run's: as in pod, and placement.",
    )
    shared_memory: Quantity | None = Field(
        default=None, description="Size of /dev/shm, which counts as memory; default: 2Gi."
    )
    scratch: ScratchSpec = Field(default=ScratchSpec(), description="Disk of a trainer; default: an emptyDir.")
    model_cache: ModelCacheSpec | None = Field(default=None, description="Where base models are kept between runs.")
    image_pull_secrets: list[PullSecret] = Field(default=[], max_length=16, description="Secrets to pull images with.")
    queue_name: LabelValue | None = Field(default=None, description="Kueue's LocalQueue for the trainers.")
    workload_priority_class_name: LabelValue | None = Field(
        default=None,
        description="Kueue's WorkloadPriorityClass of the trainers: their order in the queue, not that of their pods.",
    )
    managed_by: JobManager | None = Field(
        default=None,
        description="Who runs the trainers' Jobs: MultiKueue sends them to other clusters; default: this cluster.",
    )
    suspend: bool = Field(
        default=False, description="Stop at a checkpoint and give the GPUs back; false: go on from there."
    )
    backoff_limit: int = Field(
        default=3, ge=0, le=100, description="How often a trainer that fails is tried again; disruptions do not count."
    )
    active_deadline_seconds: int | None = Field(
        default=None,
        ge=60,
        le=31_536_000,
        description="Longest time that each teacher may train, over all of its "
        "retries and Jobs: the seconds in which its Job is allowed to run, waiting for a node included, without those "
        "in which it is suspended, in a queue of Kueue or being made anew. Default: no limit.",
    )
    pending_deadline_seconds: int | None = Field(
        default=None,
        ge=30,
        le=31_536_000,
        description="Longest wait of the inspection or of a trainer until it runs: for a node, a GPU, an image, a "
        "Secret, or for a Job that is refused; time in a queue of Kueue does not count. Default: no limit.",
    )
    gang_timeout_seconds: int | None = Field(
        default=None,
        ge=30,
        le=1800,
        description="With several nodes, and no queue of Kueue: how long some pods may hold GPUs while others cannot "
        "start, before all give theirs back and try again later; default: that of the installation, 300.",
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None, ge=0, le=31_536_000, description="When to remove the Jobs of an ended run; default: never."
    )


INPUTS: tuple[str, ...] = tuple(field.alias or name for name, field in FineTuneSpec.model_fields.items())
"""What a run is made from: never changed once the object is there."""

PLATFORM: tuple[str, ...] = tuple(
    field.alias or name
    for name, field in TeacherFineTuneSpec.model_fields.items()
    if name not in FineTuneSpec.model_fields
)
"""What says how and where it runs."""

APPLIED_TO_JOBS = frozenset(
    {
        "suspend",
        "backoffLimit",
        "activeDeadlineSeconds",
        "pendingDeadlineSeconds",
        "gangTimeoutSeconds",
        "ttlSecondsAfterFinished",
    }
)
"""Platform settings that change a Job in place, or none at all; any other makes a new Job that goes on."""


def parse_spec(body: Mapping[str, Any]) -> TeacherFineTuneSpec:
    """The spec of an object that the API server has validated.

    Raises:
        pydantic.ValidationError: It is of another version of the CRD.
    """
    return TeacherFineTuneSpec.model_validate(body.get("spec") or {}, by_alias=True, by_name=False)

"""Objects, Jobs and Pods as the API server shows them, for the tests of the operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.dataset.types import ClassInfo, DatasetInfo, Problem
from engine.results.metric_table import Change
from engine.results.outcome import Outcome, Prepared, TeacherOutcome
from engine.results.types import AdapterFile, MemoryNeed
from engine.spec import TeacherName
from teacher_operator.api.names import COMPONENT, FIELD_MANAGER, KUEUE_QUEUE, MANAGED_BY, RUN, TRAINER
from teacher_operator.api.settings import Settings
from teacher_operator.api.spec import API_VERSION, KIND
from teacher_operator.api.status import TeacherStatus
from teacher_operator.api.timestamps import seconds, timestamp
from teacher_operator.decide.job_state import JobView

NOW = seconds("2026-03-01T12:00:00Z") or 0.0
NAME, NAMESPACE, UID = "forklifts", "vision", "5b1f0000-0000-4000-8000-000000000001"
ROOT = f"s3://acme-models/forklifts/{NAME}/0123456789ab"
GPU = "nvidia.com/gpu"
BOXES, MASKS = TeacherName.GROUNDING_DINO, TeacherName.SAM
SETTINGS = Settings(operator_image="registry.test/operator:1", trainer_image="registry.test/trainer:1")

MINIMAL: Mapping[str, Any] = {
    "dataset": {
        "annotations": "s3://acme-data/forklifts/annotations.json",
        "images": "s3://acme-data/forklifts/images/",
    },
    "output": "s3://acme-models/forklifts/",
}

FULL: Mapping[str, Any] = {
    **MINIMAL,
    "storage": {
        "endpointUrl": "https://minio.storage:9000",
        "region": "eu-west-1",
        "credentialsSecretRef": {"name": "s3-keys"},
    },
    "teachers": [{"name": "GroundingDino", "epochs": 3, "learningRate": "1e-4", "lora": {"rank": 8}}],
    "classPrompts": {"RBC": "red blood cell"},
    "serviceAccountName": "trainer",
    "gpus": 2,
    "nodes": 1,
    "gpuResourceName": GPU,
    "nodeSelector": {"gpu.example.com/class": "a100"},
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]},
                ]
            }
        }
    },
    "tolerations": [{"key": "spot", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}],
    "runtimeClassName": "nvidia",
    "priorityClassName": "batch-low",
    "resources": {"requests": {"cpu": "8", "memory": "24Gi"}, "limits": {"memory": "48Gi"}},
    "pod": {
        "labels": {"cost-center": "vision-7"},
        "annotations": {"sidecar.istio.io/inject": "false"},
        "env": [
            {"name": "OTEL_SERVICE_NAME", "value": "teachers"},
            {"name": "WANDB_API_KEY", "valueFrom": {"secretKeyRef": {"name": "wandb", "key": "key"}}},
        ],
        "volumes": [{"name": "tools", "configMap": {"name": "tools"}}],
        "volumeMounts": [{"name": "tools", "mountPath": "/opt/tools", "readOnly": True}],
        "image": "registry.test/teacher:custom",
        "schedulerName": "volcano",
        "topologySpreadConstraints": [{"topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyway"}],
        "resourceClaims": [{"name": "nic", "resourceClaimTemplateName": "rdma", "gpus": 0}],
    },
    "stages": [{"name": "Inspection", "nodeSelector": {}, "runtimeClassName": "", "tolerations": []}],
    "sharedMemory": "8Gi",
    "scratch": {"size": "100Gi"},
    "modelCache": {"claimName": "models"},
    "imagePullSecrets": [{"name": "registry"}],
    "queueName": "team-a",
    "workloadPriorityClassName": "urgent",
    "managedBy": "kueue.x-k8s.io/multikueue",
    "suspend": False,
    "backoffLimit": 5,
    "activeDeadlineSeconds": 86_400,
    "pendingDeadlineSeconds": 3_600,
    "gangTimeoutSeconds": 600,
    "ttlSecondsAfterFinished": 604_800,
}
"""Every platform setting at once."""


def body_of(spec: Mapping[str, Any] | None = None, *, name: str = NAME, **changes: Any) -> dict[str, Any]:
    """An object with the least spec, with more of it, or with another."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": UID,
            "resourceVersion": "100",
            "generation": 1,
            "creationTimestamp": timestamp(NOW),
            "labels": {"app.kubernetes.io/instance": "argo-app", "team": "vision"},
            "annotations": {"argocd.argoproj.io/tracking-id": "app:finetune.dev/TeacherFineTune:vision/forklifts"},
        },
        "spec": {**(MINIMAL if spec is None else spec), **changes},
    }


def info_of(*, boxes: bool = True, masks: bool = True, problems: Sequence[Problem] = ()) -> DatasetInfo:
    """What inspection finds."""
    return DatasetInfo(
        source="s3://acme-data/forklifts/annotations.json",
        digest="d" * 64,
        splits={"train": 800, "val": 200},
        images=1000,
        images_read=1020,
        annotations=5210,
        annotations_read=5300,
        has_boxes=boxes,
        has_masks=masks,
        boxes_derived=0,
        masks=5210 if masks else 0,
        crowd_share=0.0,
        classes=(
            ClassInfo(id=1, name="forklift", annotations=5000, images=900),
            ClassInfo(id=2, name="pallet", annotations=210, images=90),
        ),
        sizes=None,
        image_sizes=None,
        problems=tuple(problems),
    )


def trained_of(teacher: TeacherName = MASKS, *, before: float = 0.312, after: float = 0.518) -> TeacherOutcome:
    """What comes of a teacher."""
    return TeacherOutcome(
        teacher=teacher,
        base_model="facebook/sam-vit-base",
        metrics={"ap": Change(before=None if before < 0 else before, after=None if after < 0 else after)},
        adapter=AdapterFile(
            uri=f"{ROOT}/teachers/{teacher.slug}_lora/adapter_model.safetensors", sha256="a" * 64, size_bytes=5_000_000
        ),
        epochs=12,
        seconds=3600.5,
        peak_memory_bytes=40 * 10**9,
    )


def prepared_of(*teachers: TeacherName, published: bool = False, info: DatasetInfo | None = None) -> Prepared:
    """What inspection leaves for these teachers."""
    return Prepared(
        info=info or info_of(boxes=BOXES in teachers, masks=MASKS in teachers),
        run_id="0123456789ab",
        uri=ROOT,
        config_uri=f"{ROOT}/teacher_config.yaml",
        teachers=teachers,
        needs=(MemoryNeed(teacher=BOXES, memory_bytes=8 * 10**9, least_memory_bytes=2 * 10**9),),
        published=tuple(map(trained_of, teachers)) if published else (),
    )


def failed_message(exit_code: int, reason: str, message: str) -> str:
    """The termination message of a process that failed in a way it foresaw."""
    return Outcome(exit_code=exit_code, reason=reason, message=message).to_message()


def job_of(
    name: str = f"{NAME}-sam",
    *,
    component: str = TRAINER,
    suspend: bool = False,
    queue: str | None = None,
    started: float | None = NOW,
    failed: tuple[str, str] | None = None,
    complete: bool = False,
    deleting: bool = False,
    **spec: Any,
) -> dict[str, Any]:
    """A Job without its template, as the store keeps it."""
    conditions = []
    if failed is not None:
        reason, message = failed
        conditions = [
            {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": timestamp(NOW)}
            for kind in ("FailureTarget", "Failed")
        ]
    if complete:
        conditions = [{"type": kind, "status": "True"} for kind in ("SuccessCriteriaMet", "Complete")]
    if suspend:
        conditions = [{"type": "Suspended", "status": "True", "reason": "JobSuspended", "message": "Job suspended"}]
    metadata = {
        "name": name,
        "namespace": NAMESPACE,
        "uid": f"uid-of-{name}",
        "resourceVersion": "200",
        "creationTimestamp": timestamp(started or NOW),
        "labels": {
            MANAGED_BY: FIELD_MANAGER,
            RUN: NAME,
            COMPONENT: component,
            **({KUEUE_QUEUE: queue} if queue else {}),
        },
        "ownerReferences": [{"kind": KIND, "name": NAME, "uid": UID, "controller": True}],
    }
    if deleting:
        metadata |= {"deletionTimestamp": timestamp(NOW), "finalizers": ["foregroundDeletion"]}
    status = {"conditions": conditions, "uncountedTerminatedPods": {}}
    if started is not None and not suspend:
        status["startTime"] = timestamp(started)
    return {
        "metadata": metadata,
        "spec": {"parallelism": 1, "completions": 1, "backoffLimit": 3, "suspend": suspend, **spec},
        "status": status,
    }


def pod_of(
    name: str = f"{NAME}-sam-x7k2p",
    *,
    container: str = TRAINER,
    phase: str = "Pending",
    node: str | None = "gpu-node-1",
    created: float = NOW,
    waiting: tuple[str, str] | None = None,
    started: float | None = None,
    ended: Mapping[str, Any] | None = None,
    conditions: Sequence[Mapping[str, Any]] | None = None,
    deleted: float | None = None,
    limits: Mapping[str, str] | None = None,
    **status: Any,
) -> dict[str, Any]:
    """A Pod as the store keeps it: ``ended`` is what its container's terminated state says."""
    image = f"registry.test/{container}:1"
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": NAMESPACE,
        "uid": f"uid-of-{name}",
        "resourceVersion": "300",
        "creationTimestamp": timestamp(created),
        "labels": {MANAGED_BY: FIELD_MANAGER, RUN: NAME, COMPONENT: container},
        "ownerReferences": [{"kind": "Job", "name": f"{NAME}-sam", "uid": f"uid-of-{NAME}-sam", "controller": True}],
    }
    if deleted is not None:
        metadata |= {"deletionTimestamp": timestamp(deleted), "deletionGracePeriodSeconds": 120}
    state: dict[str, Any] | None = None
    if ended is not None:
        state = {
            "terminated": {"startedAt": timestamp(created), "finishedAt": timestamp(created + 60), "exitCode": 1}
            | dict(ended)
        }
    elif started is not None:
        state = {"running": {"startedAt": timestamp(started)}}
    elif waiting is not None:
        reason, message = waiting
        state = {"waiting": {"reason": reason, **({"message": message} if message else {})}}
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": timestamp(created)}
    told: dict[str, Any] = {"phase": phase, "conditions": [scheduled] if conditions is None else list(conditions)}
    if state is not None:
        ready = phase == "Running"
        told["containerStatuses"] = [
            {"name": container, "image": image, "restartCount": 0, "ready": ready, "state": state}
        ]
    resources = {"limits": dict({"memory": "32Gi", GPU: "1"} if limits is None else limits)}
    return {
        "metadata": metadata,
        "spec": {"nodeName": node, "containers": [{"name": container, "image": image, "resources": resources}]},
        "status": told | status,
    }


def unschedulable(message: str, *, since: float = NOW) -> list[dict[str, Any]]:
    """The conditions of a pod that fits nowhere."""
    return [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastTransitionTime": timestamp(since),
        }
    ]


def disrupted(reason: str, message: str) -> list[dict[str, Any]]:
    """The conditions of a pod that had to go through no fault of its own."""
    return [
        {"type": "PodScheduled", "status": "True"},
        {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message},
    ]


def failed_pod(exit_code: int = 1, *, message: str = "", reason: str = "Error", **values: Any) -> dict[str, Any]:
    """A pod whose container ended badly."""
    ended = {"exitCode": exit_code, "reason": reason, **({"message": message} if message else {})}
    return pod_of(phase="Failed", ended=ended, **values)


def view_of(*pods: Mapping[str, Any], job: Mapping[str, Any] | None = None, **values: Any) -> JobView:
    """A Job with these pods."""
    return JobView(job_of() if job is None else job, pods, **values)


def teacher_of(name: TeacherName = MASKS, state: str = "Pending", **values: Any) -> TeacherStatus:
    """The status of one teacher."""
    return TeacherStatus(name=name, state=state, **values)

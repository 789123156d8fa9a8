"""Names, labels and owner references of the children of an object. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from engine import stages
from engine.registry import ModelName
from engine.stages import INSPECTION, Stage
from teacher_operator.api.spec import API_VERSION, GROUP, KIND

FIELD_MANAGER = "teacher-finetune"

MANAGED_BY = "app.kubernetes.io/managed-by"
RUN = f"{GROUP}/run"
COMPONENT = f"{GROUP}/component"
TEACHER = f"{GROUP}/teacher"
PLATFORM_HASH = f"{GROUP}/platform-hash"
"""Annotation of a Job: digest of the settings that only a new Job can apply."""

SUSPENDED = f"{GROUP}/suspended"
"""Annotation of a Job that this operator has suspended. The operator resumes no Job without it."""

CLAIMED_GPUS = f"{GROUP}/claimed-gpus"
"""Annotation of a trainer's pod: number of GPUs from its resource claims."""

GANG = f"{GROUP}/gang"
"""Annotation of a Job over several nodes that released its GPUs because not all of its pods could start."""

KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"
KUEUE_PRIORITY = "kueue.x-k8s.io/priority-class"
SELECTOR = f"{MANAGED_BY}={FIELD_MANAGER}"

NETWORK = "network"
"""Value of the component label of the NetworkPolicy of a run."""

INSPECT, TRAINER = INSPECTION.slug, "trainer"
"""Values of the component label, which are also the names of the containers."""


class Key(NamedTuple):
    """Namespace and name of an object."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def component_of(stage: Stage) -> str:
    """Return the component of the children of a stage, which is also the name of its container."""
    return stage.slug if stage.teacher is None else TRAINER


def stage_job(name: str, stage: Stage) -> str:
    """Return the name of the Job (and, over several nodes, of the Service) of a stage."""
    return f"{name}-{stage.slug.replace('_', '-')}"


def stage_of(labels: Mapping[str, str]) -> Stage | None:
    """Return the stage in the labels of a Job or Pod; None if this version has no such stage."""
    slug = labels.get(TEACHER) or labels.get(COMPONENT)
    return next((stage for stage in stages.all_stages() if stage.slug == slug), None)


def container_of(child: Mapping[str, Any]) -> str:
    """Return the name of the main container of a pod, or of the pods of a Job."""
    return str((child["metadata"].get("labels") or {}).get(COMPONENT) or TRAINER)


def inspect_job(name: str) -> str:
    """Return the name of the Job that inspects the data of an object."""
    return stage_job(name, INSPECTION)


def network_policy(name: str) -> str:
    """Return the name of the NetworkPolicy of an object's pods."""
    return f"{name}-network"


def request_config_map(name: str, uid: str) -> str:
    """Return the name of the ConfigMap with an object's request, which inspection reads; unique by the object's uid."""
    return f"{name}-request-{uid[:8]}"


def trainer_job(name: str, teacher: ModelName) -> str:
    """Return the name of the Job of one teacher."""
    return stage_job(name, stages.training(teacher))


def labels(name: str, component: str, teacher: ModelName | None = None) -> dict[str, str]:
    """Return the labels of a child; without those of the object, by which GitOps tools would treat it as their own."""
    own = {MANAGED_BY: FIELD_MANAGER, RUN: name, COMPONENT: component}
    return own if teacher is None else own | {TEACHER: teacher.slug}


def owner_reference(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the owner reference by which a child is deleted together with its object."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": body["metadata"]["name"],
        "uid": body["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def child_metadata(body: Mapping[str, Any], stage: Stage, name: str | None = None) -> dict[str, Any]:
    """Return the metadata of a child of a stage; its name is that of the Job unless given."""
    run = body["metadata"]["name"]
    return {
        "name": name or stage_job(run, stage),
        "namespace": body["metadata"]["namespace"],
        "labels": labels(run, component_of(stage), stage.teacher),
        "ownerReferences": [owner_reference(body)],
    }


def owner_uid(child: Mapping[str, Any]) -> str:
    """Return the uid of the controller of a child; empty if it has none."""
    references = child["metadata"].get("ownerReferences") or []
    return next((str(reference["uid"]) for reference in references if reference.get("controller")), "")


def run_of(child: Mapping[str, Any]) -> Key | None:
    """Return the key of the object in the labels of a Job or Pod; None without that label."""
    metadata = child["metadata"]
    name = (metadata.get("labels") or {}).get(RUN)
    return Key(metadata["namespace"], name) if name else None

"""What the children of an object are called and how they are found. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from engine.spec import TeacherName
from teacher_operator.api.spec import API_VERSION, GROUP, KIND

FIELD_MANAGER = "teacher-finetune"

MANAGED_BY = "app.kubernetes.io/managed-by"
RUN = f"{GROUP}/run"
COMPONENT = f"{GROUP}/component"
TEACHER = f"{GROUP}/teacher"
PLATFORM_HASH = f"{GROUP}/platform-hash"
"""Annotation of a trainer's Job: a digest of the settings that only a new Job can take on."""

SUSPENDED = f"{GROUP}/suspended"
"""Annotation of a Job that we have suspended: one that somebody else has is theirs to let run."""

CLAIMED_GPUS = f"{GROUP}/claimed-gpus"
"""Annotation of a trainer's pod: GPUs that it has by resource claims."""

GANG = f"{GROUP}/gang"
"""Annotation of a Job over several nodes that gave its GPUs back since not all of its pods could start."""

KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"
KUEUE_PRIORITY = "kueue.x-k8s.io/priority-class"
SELECTOR = f"{MANAGED_BY}={FIELD_MANAGER}"

NETWORK = "network"
"""Component of the NetworkPolicy of a run."""

INSPECT, TRAINER = "inspect", "trainer"
"""Components; their containers are called so too."""


class Key(NamedTuple):
    """An object by its place."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def inspect_job(name: str) -> str:
    """The Job that inspects the data of an object."""
    return f"{name}-inspect"


def network_policy(name: str) -> str:
    """The NetworkPolicy of the pods of an object."""
    return f"{name}-network"


def request_config_map(name: str, uid: str) -> str:
    """The ConfigMap that says to inspection what this very object asks for; nobody else's has its name."""
    return f"{name}-request-{uid[:8]}"


def trainer_job(name: str, teacher: TeacherName) -> str:
    """The Job (and, over several nodes, the Service) of one teacher."""
    return f"{name}-{teacher.slug.replace('_', '-')}"


def labels(name: str, component: str, teacher: TeacherName | None = None) -> dict[str, str]:
    """Labels of a child. Those of the object itself are never copied: GitOps tools would take the child for theirs."""
    own = {MANAGED_BY: FIELD_MANAGER, RUN: name, COMPONENT: component}
    return own if teacher is None else own | {TEACHER: teacher.slug}


def owner_reference(body: Mapping[str, Any]) -> dict[str, Any]:
    """Makes a child go when its object goes."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": body["metadata"]["name"],
        "uid": body["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def owner_uid(child: Mapping[str, Any]) -> str:
    """The uid of whatever controls a child, or none."""
    references = child["metadata"].get("ownerReferences") or []
    return next((str(reference["uid"]) for reference in references if reference.get("controller")), "")


def run_of(child: Mapping[str, Any]) -> Key | None:
    """The object that a Job or Pod is labelled with."""
    metadata = child["metadata"]
    name = (metadata.get("labels") or {}).get(RUN)
    return Key(metadata["namespace"], name) if name else None

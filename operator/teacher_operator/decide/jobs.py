"""From an object to the children that do its work: Jobs, their ConfigMap and Service. Pure: same in, same out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import yaml

from engine.errors import NEVER_RETRIED, InterruptedTrainingError
from engine.spec import TeacherName
from teacher_operator.api.names import (
    INSPECT,
    KUEUE_PRIORITY,
    KUEUE_QUEUE,
    PLATFORM_HASH,
    SUSPENDED,
    TRAINER,
    inspect_job,
    labels,
    owner_reference,
    request_config_map,
    trainer_job,
)
from teacher_operator.api.pod_settings import PodSettings, ResourcesSpec, StageName
from teacher_operator.api.settings import Settings
from teacher_operator.api.spec import (
    API_VERSION,
    APPLIED_TO_JOBS,
    INPUTS,
    KIND,
    PLATFORM,
    PLATFORM_STORAGE,
    TeacherFineTuneSpec,
)
from teacher_operator.api.stages import gpus_of, stage_settings, stage_spec
from teacher_operator.decide.job_state import DISRUPTED
from teacher_operator.decide.pod_template import DISK, pod_template

Body = Mapping[str, Any]
Manifest = dict[str, Any]

REQUEST_MOUNT = "/etc/teacher"
OUTCOME = "/dev/termination-log"
WORK = f"{DISK}/work"
RENDEZVOUS_PORT = 29500

LIBYAML: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class QuotingDumper(LIBYAML):  # type: ignore[misc]
    """libyaml's, where PyYAML has it (a fifth of the time), with all text in quotes.

    PyYAML leaves text bare that is a number to YAML 1.2, such as ``1e-4``.
    """


QuotingDumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
)

INSPECT_RETRIES = 2

ONLY_ON_A_CLUSTER = frozenset({"credentialsSecretRef", "caBundleConfigMapRef"})
"""Of the storage: what the pods are made with, and inspection does not read."""

INTERRUPTED = InterruptedTrainingError.exit_code


def request(body: Body) -> Manifest:
    """The ConfigMap that inspection reads: the object, less what only a cluster has."""
    spec = {name: body["spec"][name] for name in INPUTS if name in body["spec"]}
    if "storage" in spec:
        spec["storage"] = {k: v for k, v in spec["storage"].items() if k not in ONLY_ON_A_CLUSTER}
    name = body["metadata"]["name"]
    manifest = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}
    # In ASCII: a line break of Unicode would be read as a space.
    text = yaml.dump(manifest, Dumper=QuotingDumper, sort_keys=False)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(body, request_config_map(name, body["metadata"]["uid"]), INSPECT),
        "data": {"request.yaml": text},
    }


def inspection(body: Body, spec: TeacherFineTuneSpec, settings: Settings) -> Manifest:
    """The Job that inspects the data and plans the run: CPU only, in the operator's image, as the user."""
    name = body["metadata"]["name"]
    return _light_job(
        spec,
        settings,
        metadata=_metadata(body, inspect_job(name), INSPECT),
        stage=StageName.INSPECTION,
        container=INSPECT,
        command=["teacher", "prepare", "-f", f"{REQUEST_MOUNT}/request.yaml", "--outcome", OUTCOME],
        job_settings={"backoffLimit": INSPECT_RETRIES},
        config_map=(request_config_map(name, body["metadata"]["uid"]), REQUEST_MOUNT),
    )


def training(
    body: Body,
    spec: TeacherFineTuneSpec,
    settings: Settings,
    *,
    teacher: TeacherName,
    config_uri: str,
    seconds_left: int | None = None,
) -> Manifest:
    """The GPU Job of one teacher; ``seconds_left``: of its deadline, after earlier Jobs."""
    name = body["metadata"]["name"]
    job, stage = trainer_job(name, teacher), StageName(teacher.value)
    own = stage_settings(spec, stage, settings)
    template = pod_template(
        spec,
        settings,
        own,
        labels=labels(name, TRAINER, teacher),
        container={
            "name": TRAINER,
            "image": settings.trainer_image,
            "command": _trainer_command(spec, job, teacher, config_uri, gpus=gpus_of(spec, own)),
            "resources": _trainer_resources(spec, settings, stage),
        },
        trainer_job=job,
    )
    metadata = _job_metadata(_metadata(body, job, TRAINER, teacher), own, platform_hash(spec, stage))
    if spec.queue_name:
        metadata["labels"][KUEUE_QUEUE] = spec.queue_name
    if spec.workload_priority_class_name:
        metadata["labels"][KUEUE_PRIORITY] = spec.workload_priority_class_name
    job_spec: Manifest = {
        **job_settings(spec, seconds_left=seconds_left),
        # A Job for Kueue is made suspended; from then on Kueue alone says when it runs.
        "suspend": spec.suspend or bool(spec.queue_name),
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": _failure_policy(TRAINER),
        "template": template,
    }
    if spec.managed_by is not None:
        job_spec["managedBy"] = spec.managed_by.value
    if spec.nodes > 1:
        job_spec |= {"completionMode": "Indexed", "completions": spec.nodes, "parallelism": spec.nodes}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": job_spec}


def result(
    body: Body,
    spec: TeacherFineTuneSpec,
    settings: Settings,
    *,
    teacher: TeacherName,
    config_uri: str,
    seconds_left: int | None = None,
) -> Manifest:
    """The Job that reads what a teacher has published in another cluster: CPU only, in the operator's image.

    It has the name of the teacher's Job, whose place it takes, and the placement of inspection.
    """
    job = trainer_job(body["metadata"]["name"], teacher)
    config = _literal(config_uri)
    return _light_job(
        spec,
        settings,
        metadata=_metadata(body, job, TRAINER, teacher),
        stage=StageName(teacher.value),
        container=TRAINER,
        command=["teacher", "result", "--config", config, "--teacher", teacher.value, "--outcome", OUTCOME],
        job_settings=job_settings(spec, seconds_left=seconds_left),
    )


def _light_job(
    spec: TeacherFineTuneSpec,
    settings: Settings,
    *,
    metadata: Manifest,
    stage: StageName,
    container: str,
    command: list[str],
    job_settings: Manifest,
    config_map: tuple[str, str] | None = None,
) -> Manifest:
    """Return a Job without GPU in the operator's image, with the pods of inspection.

    Args:
        spec: What the user asks for.
        settings: What the installation says.
        metadata: Name, namespace, labels and owner of the Job; its pods get the same labels.
        stage: The stage whose settings the Job is compared with later.
        container: Name of the container.
        command: What it runs.
        job_settings: The limits of the Job.
        config_map: A ConfigMap and where it is mounted.
    """
    given = stage_spec(spec, StageName.INSPECTION).resources
    own = stage_settings(spec, StageName.INSPECTION, settings)
    template = pod_template(
        spec,
        settings,
        own,
        labels=metadata["labels"],
        container={
            "name": container,
            "image": settings.operator_image,
            "command": command,
            "resources": _amounts(given) if given is not None else settings.inspect_resources,
        },
        config_map=config_map,
    )
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _job_metadata(metadata, own, platform_hash(spec, stage)),
        "spec": {
            **job_settings,
            "suspend": spec.suspend,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": _failure_policy(container),
            "template": template,
        },
    }


def rendezvous(body: Body, teacher: TeacherName) -> Manifest:
    """The headless Service by which the pods of several nodes find each other."""
    name = body["metadata"]["name"]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(body, trainer_job(name, teacher), TRAINER, teacher),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": labels(name, TRAINER, teacher),
            "ports": [{"name": "rendezvous", "port": RENDEZVOUS_PORT}],
        },
    }


def job_settings(spec: TeacherFineTuneSpec, *, seconds_left: int | None) -> Manifest:
    """The settings of a trainer's Job that may change while it runs; null is none."""
    deadline = {"activeDeadlineSeconds": seconds_left} if seconds_left else {}
    return {"backoffLimit": _retries(spec), **deadline}


def job_patch(
    job: Body, spec: TeacherFineTuneSpec, *, seconds_left: int | None = None, paused: bool = False
) -> Manifest | None:
    """Return the merge patch that sets a trainer's Job as the object says; None if nothing differs.

    A Job that is ``paused`` stays suspended for now. ``seconds_left``: of the deadline, for this very Job, which
    Kubernetes counts from when the Job was last allowed to run.
    """
    patch: Manifest = suspend_patch(job, suspend=spec.suspend or paused) or {}
    wanted = {"backoffLimit": _retries(spec), "activeDeadlineSeconds": seconds_left}
    if not is_queued(job):
        wanted["parallelism"] = spec.nodes
    now = {"parallelism": 1} | dict(job["spec"])
    changes = {name: value for name, value in wanted.items() if (now.get(name) or 0) != (value or 0)}
    if changes:
        patch["spec"] = patch.get("spec", {}) | changes
    return patch or None


def inspection_patch(job: Body, *, suspend: bool) -> Manifest | None:
    """Return a merge patch that sets the Job of inspection right; None if nothing differs.

    A deadline of the Job would count the time in which no pod of it can run; earlier versions of the operator set one.
    """
    patch: Manifest = suspend_patch(job, suspend=suspend) or {}
    if job["spec"].get("activeDeadlineSeconds") is not None:
        patch["spec"] = patch.get("spec", {}) | {"activeDeadlineSeconds": None}
    return patch or None


def last_try(job: Body) -> list[tuple[str, Manifest]]:
    """The patch, by the name of the Job, with which a failure ends a Job; its pods stay, and so do their logs."""
    return [(job["metadata"]["name"], {"spec": {"backoffLimit": 0}})] if job["spec"].get("backoffLimit") else []


def _retries(spec: TeacherFineTuneSpec) -> int:
    """Of all pods: where several nodes train together, one failure ends each of them."""
    return spec.backoff_limit * spec.nodes


def suspend_patch(job: Body, *, suspend: bool) -> Manifest | None:
    """A merge patch that suspends a Job, or lets one run that we have suspended.

    A Job in a queue is let alone, and so is one that somebody else has suspended: it may be a queue that nobody told us
    of, and two that switch a Job on and off would never end.
    """
    suspended, ours = bool(job["spec"].get("suspend")), SUSPENDED in (job["metadata"].get("annotations") or {})
    if is_queued(job) or suspended == suspend or (suspended and not ours):
        return None
    annotation = "true" if suspend else None
    return {"metadata": {"annotations": {SUSPENDED: annotation}}, "spec": {"suspend": suspend}}


def is_queued(job: Body) -> bool:
    """Whether a Job runs is Kueue's to say."""
    return KUEUE_QUEUE in (job["metadata"].get("labels") or {})


def platform_hash(spec: TeacherFineTuneSpec, stage: StageName) -> str:
    """A digest of the settings that only a new Job can take on: an operator's new version changes none of them.

    What another stage alone is given has no part in it.

    Defaults have no part in it, so that a setting which a later version of the CRD brings changes none either.
    """
    given = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude_none=True)
    kept = {name: given[name] for name in PLATFORM if name in given and name not in APPLIED_TO_JOBS}
    stages = [one for one in kept.pop("stages", ()) if one["name"] == stage.value]
    if stages:
        kept["stages"] = stages
    kept["storage"] = {name: value for name, value in given.get("storage", {}).items() if name in PLATFORM_STORAGE}
    text = json.dumps(kept, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_made_from(job: Body, spec: TeacherFineTuneSpec, stage: StageName) -> bool:
    """Return whether a Job has the settings of an object that only a new Job could take on."""
    return (job["metadata"].get("annotations") or {}).get(PLATFORM_HASH) == platform_hash(spec, stage)


def _metadata(body: Body, name: str, component: str, teacher: TeacherName | None = None) -> Manifest:
    return {
        "name": name,
        "namespace": body["metadata"]["namespace"],
        "labels": labels(body["metadata"]["name"], component, teacher),
        "ownerReferences": [owner_reference(body)],
    }


def _job_metadata(metadata: Manifest, own: PodSettings, digest: str) -> Manifest:
    """Return the metadata of a Job with the labels and annotations of its pods, which policies require of it too."""
    return metadata | {
        "labels": {**(own.labels or {}), **metadata["labels"]},
        "annotations": {**(own.annotations or {}), PLATFORM_HASH: digest},
    }


def _literal(text: str) -> str:
    """Return an argument that the kubelet does not expand: ``$(NAME)`` is a variable to it."""
    return text.replace("$", "$$")


def _amounts(resources: ResourcesSpec) -> Manifest:
    """Return requests and limits as in a container, without the empty one."""
    return {
        kind: dict(amounts)
        for kind, amounts in (("requests", resources.requests), ("limits", resources.limits))
        if amounts
    }


def _failure_policy(container: str) -> Manifest:
    """Failures that would come again end the Job; disruptions, and stops after a checkpoint, do not count.

    The first rule that matches counts: a pod that was disrupted as it started may end with any code. The rule that ends
    the Job is for the time in which no operator runs. It does not end a run whose pod left no outcome: its Job is made
    again.
    """
    return {
        "rules": [
            {"action": "Ignore", "onPodConditions": [{"type": DISRUPTED, "status": "True"}]},
            {
                "action": "FailJob",
                "onExitCodes": {
                    "containerName": container,
                    "operator": "In",
                    "values": sorted(NEVER_RETRIED),
                },
            },
            {
                "action": "Ignore",
                "onExitCodes": {"containerName": container, "operator": "In", "values": [INTERRUPTED]},
            },
        ]
    }


def _trainer_command(
    spec: TeacherFineTuneSpec, job: str, teacher: TeacherName, config_uri: str, *, gpus: int
) -> list[str]:
    train = [
        "train",
        "--config",
        _literal(config_uri),
        "--teacher",
        teacher.value,
        "--progress",
        "json",
        "--work-dir",
        WORK,
    ]
    if spec.nodes * gpus <= 1:
        return ["teacher", *train, "--outcome", OUTCOME]
    several = ["--processes", str(gpus)]
    if spec.nodes > 1:  # the kubelet puts in the index that the Job controller gives each pod
        several += ["--nodes", str(spec.nodes), "--node-rank", "$(JOB_COMPLETION_INDEX)"]
        several += ["--rendezvous", f"{job}-0.{job}:{RENDEZVOUS_PORT}"]
    return ["teacher", "launch", *several, "--outcome", OUTCOME, *train]


def _trainer_resources(spec: TeacherFineTuneSpec, settings: Settings, stage: StageName) -> Manifest:
    chosen = stage_spec(spec, stage).resources or spec.resources
    given = _amounts(chosen) or settings.trainer_resources
    resources = {kind: dict(given.get(kind, {})) for kind in ("requests", "limits")}
    if spec.gpus:  # of extended resources, request and limit are always the same
        resources["requests"][spec.gpu_resource_name] = resources["limits"][spec.gpu_resource_name] = str(spec.gpus)
    return {kind: amounts for kind, amounts in resources.items() if amounts}

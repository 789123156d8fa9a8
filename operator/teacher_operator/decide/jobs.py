"""The Jobs of stages, with the Service and ConfigMap that they need. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.errors import NEVER_RETRIED, InterruptedTrainingError
from engine.stages import INSPECTION, Stage, StageInput
from teacher_operator.api.names import (
    KUEUE_PRIORITY,
    KUEUE_QUEUE,
    PLATFORM_HASH,
    child_metadata,
    component_of,
    request_config_map,
)
from teacher_operator.api.pod_settings import PodSettings, ResourcesSpec
from teacher_operator.api.settings import Settings
from teacher_operator.api.spec import TeacherFineTuneSpec
from teacher_operator.api.stage_pod_settings import gpus_of, stage_settings, stage_spec
from teacher_operator.decide.job_patches import job_settings, nodes, platform_hash
from teacher_operator.decide.job_state import DISRUPTED
from teacher_operator.decide.pod_template import DISK, pod_template
from teacher_operator.decide.request_config_map import REQUEST_KEY, request

Body = Mapping[str, Any]
Manifest = dict[str, Any]

REQUEST_MOUNT = "/etc/teacher"
REQUEST_FILE = f"{REQUEST_MOUNT}/{REQUEST_KEY}"
OUTCOME = "/dev/termination-log"
WORK = f"{DISK}/work"
RENDEZVOUS_PORT = 29500

INTERRUPTED = InterruptedTrainingError.exit_code


def stage_children(
    body: Body,
    spec: TeacherFineTuneSpec,
    settings: Settings,
    stage: Stage,
    *,
    config_uri: str,
    seconds_left: int | None = None,
) -> list[Manifest]:
    """Return the children of a stage in the order of their creation; its Job is the last.

    Args:
        body: The object.
        spec: Spec of the object.
        settings: Settings of the installation.
        stage: The stage.
        config_uri: Configuration of the run; empty before inspection has written it.
        seconds_left: Remaining seconds of the deadline, after earlier Jobs; None without one.
    """
    job = stage_job(body, spec, settings, stage, config_uri=config_uri, seconds_left=seconds_left)
    if stage is INSPECTION:
        return [request(body), job]
    return [rendezvous(body, stage), job] if nodes(stage, spec) > 1 else [job]


def stage_job(
    body: Body,
    spec: TeacherFineTuneSpec,
    settings: Settings,
    stage: Stage,
    *,
    config_uri: str = "",
    seconds_left: int | None = None,
) -> Manifest:
    """Return the Job of a stage: with GPUs in the trainer image, else on CPUs in the operator's image.

    Args:
        body: The object.
        spec: Spec of the object.
        settings: Settings of the installation.
        stage: The stage.
        config_uri: Configuration of the run; empty before inspection has written it.
        seconds_left: Remaining seconds of the deadline, after earlier Jobs; None without one.
    """
    arguments = list(stage.arguments(StageInput(request=REQUEST_FILE, config=_literal(config_uri))))
    if stage.uses_gpu:
        return _gpu_job(body, spec, settings, stage, arguments, seconds_left=seconds_left)
    inspects = stage is INSPECTION
    name = request_config_map(body["metadata"]["name"], body["metadata"]["uid"])
    return _light_job(
        body,
        spec,
        settings,
        stage,
        pods_as=stage,
        arguments=arguments,
        seconds_left=seconds_left,
        config_map=(name, REQUEST_MOUNT) if inspects else None,
    )


def _gpu_job(
    body: Body,
    spec: TeacherFineTuneSpec,
    settings: Settings,
    stage: Stage,
    arguments: list[str],
    *,
    seconds_left: int | None,
) -> Manifest:
    metadata = child_metadata(body, stage)
    own, container = stage_settings(spec, stage, settings), component_of(stage)
    template = pod_template(
        spec,
        settings,
        own,
        labels=metadata["labels"],
        container={
            "name": container,
            "image": settings.trainer_image,
            "command": _gpu_command(spec, metadata["name"], arguments, gpus=gpus_of(spec, own)),
            "resources": _gpu_resources(spec, settings, stage),
        },
        trainer_job=metadata["name"],
    )
    metadata = _job_metadata(metadata, own, platform_hash(spec, stage))
    if spec.queue_name:
        metadata["labels"][KUEUE_QUEUE] = spec.queue_name
    if spec.workload_priority_class_name:
        metadata["labels"][KUEUE_PRIORITY] = spec.workload_priority_class_name
    job = _job(spec, stage, metadata, template, seconds_left=seconds_left)
    if spec.queue_name:
        job["spec"]["suspend"] = True  # only Kueue decides when it runs
    if spec.managed_by is not None:
        job["spec"]["managedBy"] = spec.managed_by.value
    if spec.nodes > 1:
        job["spec"] |= {"completionMode": "Indexed", "completions": spec.nodes, "parallelism": spec.nodes}
    return job


def result_job(
    body: Body,
    spec: TeacherFineTuneSpec,
    settings: Settings,
    stage: Stage,
    *,
    config_uri: str,
    seconds_left: int | None = None,
) -> Manifest:
    """Return the Job that reads the result of a teacher trained in another cluster: CPU only, in the operator's image.

    It replaces the teacher's Job under the same name, and has the placement of inspection.
    """
    arguments = ["result", "--config", _literal(config_uri), "--teacher", stage.name]
    return _light_job(body, spec, settings, stage, pods_as=INSPECTION, arguments=arguments, seconds_left=seconds_left)


def _light_job(
    body: Body,
    spec: TeacherFineTuneSpec,
    settings: Settings,
    stage: Stage,
    *,
    pods_as: Stage,
    arguments: list[str],
    seconds_left: int | None,
    config_map: tuple[str, str] | None = None,
) -> Manifest:
    """Return a Job without GPU in the operator's image.

    Args:
        body: The object.
        spec: Spec of the object.
        settings: Settings of the installation.
        stage: The stage that the Job belongs to.
        pods_as: The stage whose pod settings apply.
        arguments: Arguments of the command ``teacher``.
        seconds_left: Remaining seconds of the deadline, after earlier Jobs; None without one.
        config_map: Name of a ConfigMap, and the path of its mount.
    """
    given = stage_spec(spec, pods_as).resources
    own, container = stage_settings(spec, pods_as, settings), component_of(stage)
    metadata = child_metadata(body, stage)
    template = pod_template(
        spec,
        settings,
        own,
        labels=metadata["labels"],
        container={
            "name": container,
            "image": settings.operator_image,
            "command": ["teacher", *arguments, "--outcome", OUTCOME],
            "resources": _amounts(given) if given is not None else settings.inspect_resources,
        },
        config_map=config_map,
    )
    metadata = _job_metadata(metadata, own, platform_hash(spec, stage))
    return _job(spec, stage, metadata, template, seconds_left=seconds_left)


def _job(
    spec: TeacherFineTuneSpec, stage: Stage, metadata: Manifest, template: Manifest, *, seconds_left: int | None
) -> Manifest:
    """Return the Job of a stage with the settings that every Job has, for a pod template."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            **job_settings(stage, spec, seconds_left=seconds_left),
            "suspend": spec.suspend,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": _failure_policy(component_of(stage)),
            "template": template,
        },
    }


def rendezvous(body: Body, stage: Stage) -> Manifest:
    """Return the headless Service through which the pods of several nodes find each other."""
    metadata = child_metadata(body, stage)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": metadata["labels"],
            "ports": [{"name": "rendezvous", "port": RENDEZVOUS_PORT}],
        },
    }


def _job_metadata(metadata: Manifest, own: PodSettings, digest: str) -> Manifest:
    """Return the metadata of a Job with the labels and annotations of its pods: policies may require them of Jobs."""
    return metadata | {
        "labels": {**(own.labels or {}), **metadata["labels"]},
        "annotations": {**(own.annotations or {}), PLATFORM_HASH: digest},
    }


def _literal(text: str) -> str:
    """Return an argument escaped for the kubelet, which would expand ``$(NAME)`` as a variable."""
    return text.replace("$", "$$")


def _amounts(resources: ResourcesSpec) -> Manifest:
    """Return requests and limits as in a container; empty ones are left out."""
    return {
        kind: dict(amounts)
        for kind, amounts in (("requests", resources.requests), ("limits", resources.limits))
        if amounts
    }


def _failure_policy(container: str) -> Manifest:
    """Return the pod failure policy: permanent failures end the Job; disruptions and stops at checkpoints do not count.

    The first matching rule applies: a pod that is disrupted while it starts may end with any exit code. The rule
    FailJob is needed while the operator does not run. It does not end the run if the pod left no outcome: then the
    operator replaces the Job.
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


def _gpu_command(spec: TeacherFineTuneSpec, job: str, arguments: list[str], *, gpus: int) -> list[str]:
    words = [*arguments, "--progress", "json", "--work-dir", WORK]
    if spec.nodes * gpus <= 1:
        return ["teacher", *words, "--outcome", OUTCOME]
    several = ["--processes", str(gpus)]
    if spec.nodes > 1:  # the kubelet inserts the index that the Job controller assigns to each pod
        several += ["--nodes", str(spec.nodes), "--node-rank", "$(JOB_COMPLETION_INDEX)"]
        several += ["--rendezvous", f"{job}-0.{job}:{RENDEZVOUS_PORT}"]
    return ["teacher", "launch", *several, "--outcome", OUTCOME, *words]


def _gpu_resources(spec: TeacherFineTuneSpec, settings: Settings, stage: Stage) -> Manifest:
    chosen = stage_spec(spec, stage).resources or spec.resources
    given = _amounts(chosen) or settings.trainer_resources
    resources = {kind: dict(given.get(kind, {})) for kind in ("requests", "limits")}
    if spec.gpus:  # request and limit of an extended resource must be equal
        resources["requests"][spec.gpu_resource_name] = resources["limits"][spec.gpu_resource_name] = str(spec.gpus)
    return {kind: amounts for kind, amounts in resources.items() if amounts}

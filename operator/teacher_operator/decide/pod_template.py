"""Pod templates of all stages, by the restricted pod security standard and the settings of the user. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine import stages
from engine.spec import SpecModel
from engine.stages import INSPECTION
from engine.storage.options import CA_BUNDLES, PAYS, STYLE
from engine.text.uris import CLAIMS
from teacher_operator.api.names import CLAIMED_GPUS
from teacher_operator.api.pod_settings import EnvSource, PodSettings
from teacher_operator.api.settings import Settings
from teacher_operator.api.spec import TeacherFineTuneSpec
from teacher_operator.api.stage_pod_settings import gpus_of, stage_settings, stage_spec
from teacher_operator.decide.claim_mounts import MOUNTED, claims, mount_claims, secret_keys

GRACE_SECONDS = 120
"""Seconds between SIGTERM and SIGKILL: a checkpoint takes seconds, and its upload may take longer."""

USER = 65532
DISK, MODELS, AUTHORITIES = "/scratch", "/models", "/etc/teacher-ca"
BUNDLE = "ca.crt"
SHARED_MEMORY = "2Gi"

RESTRICTED_CONTAINER = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}


def pod_template(
    spec: TeacherFineTuneSpec,
    settings: Settings,
    own: PodSettings,
    *,
    labels: Mapping[str, str],
    container: Mapping[str, Any],
    config_map: tuple[str, str] | None = None,
    trainer_job: str | None = None,
) -> dict[str, Any]:
    """Return a pod template.

    Args:
        spec: Spec of the object.
        settings: Settings of the installation.
        own: Settings of the stage, as :func:`teacher_operator.api.stage_pod_settings.stage_settings` returns them.
        labels: Labels of the pod.
        container: Name, image, command and resources of the container.
        config_map: Name of a ConfigMap, and the path of its mount.
        trainer_job: Name of the Job of a stage with GPUs; None for any other stage.
    """
    volumes, mounts = _volumes(spec, settings, own, config_map=config_map, trainer_job=trainer_job)
    devices = own.resource_claims or ()
    full = {
        **container,
        **({"image": own.image} if own.image else {}),
        "imagePullPolicy": settings.image_pull_policy,
        "env": _environment(spec, settings, own, trains=trainer_job is not None),
        "volumeMounts": mounts,
        "securityContext": RESTRICTED_CONTAINER,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if devices:
        full["resources"] = {**full.get("resources", {}), "claims": [{"name": claim.name} for claim in devices]}
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": _security_context(spec, own, trains=trainer_job is not None),
        "containers": [full],
        "volumes": volumes,
    }
    if spec.service_account_name:
        pod["serviceAccountName"] = spec.service_account_name
    if spec.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": secret.name} for secret in spec.image_pull_secrets]
    pod |= _placement(spec, settings, own, labels, inspects=trainer_job is None)
    if trainer_job is not None and spec.nodes > 1:
        pod["subdomain"] = trainer_job
    metadata = _metadata(own, labels, trains=trainer_job is not None)
    return {"metadata": metadata, "spec": pod}


def _volumes(
    spec: TeacherFineTuneSpec,
    settings: Settings,
    own: PodSettings,
    *,
    config_map: tuple[str, str] | None,
    trainer_job: str | None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the volumes of a pod and their mounts. Arguments as for :func:`pod_template`."""
    disks = _disks(spec, settings, trainer_job)
    volumes, mounts = [volume for volume, _ in disks], [mount for _, mount in disks]
    volumes += _bounded(_listed(own.volumes), settings.scratch_size)
    mounts += _listed(own.volume_mounts)
    mount_claims(claims(spec), volumes, mounts)
    if config_map is not None:
        name, path = config_map
        volumes.append({"name": "request", "configMap": {"name": name}})
        mounts.append({"name": "request", "mountPath": path, "readOnly": True})
    authorities = _authorities(spec, settings)
    if authorities is not None:
        name, key = authorities
        volumes.append({"name": "ca-bundle", "configMap": {"name": name, "items": [{"key": key, "path": BUNDLE}]}})
        mounts.append({"name": "ca-bundle", "mountPath": AUTHORITIES, "readOnly": True})
    return volumes, mounts


def _security_context(spec: TeacherFineTuneSpec, own: PodSettings, *, trains: bool) -> dict[str, Any]:
    """Return the security context of a pod; ``fsGroup`` opens the disks of claims, which belong to root."""
    security: dict[str, Any] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    if trains and (spec.scratch.claim_name or spec.model_cache):
        security["fsGroup"] = USER
    if any(claims(spec).values()) or _claims_to_write(own):
        # a claim may hold a million files: change their group once, not at every start
        security |= {"fsGroup": USER, "fsGroupChangePolicy": "OnRootMismatch"}
    return security


def _metadata(own: PodSettings, labels: Mapping[str, str], *, trains: bool) -> dict[str, Any]:
    annotations = dict(own.annotations or {})
    gpus = sum(claim.gpus for claim in own.resource_claims or ())
    if trains and gpus:
        annotations[CLAIMED_GPUS] = str(gpus)
    found = {"annotations": annotations} if annotations else {}
    return {"labels": {**(own.labels or {}), **labels}, **found}


def _bounded(volumes: list[dict[str, Any]], size: str) -> list[dict[str, Any]]:
    """Return volumes in which every emptyDir has a size limit, so that no run fills the disk of a node."""
    return [one | {"emptyDir": {"sizeLimit": size} | one["emptyDir"]} if "emptyDir" in one else one for one in volumes]


def _environment(
    spec: TeacherFineTuneSpec, settings: Settings, own: PodSettings, *, trains: bool
) -> list[dict[str, Any]]:
    """Return the variables of a pod; those of the object override those of the installation."""
    models = MODELS if trains and spec.model_cache else DISK
    gpus = gpus_of(spec, own) if trains else 0
    plain = {
        "HOME": DISK,
        "TMPDIR": DISK,
        "TEACHER_CACHE": f"{DISK}/cache",
        "HF_HOME": f"{models}/huggingface",
        "PYTHONUNBUFFERED": "1",
        **({"TEACHER_GPUS": str(gpus)} if gpus else {}),
        **{name: value for name, value in settings.pod_env.items() if isinstance(value, str)},
    }
    bundle = spec.storage.ca_bundle or (f"{AUTHORITIES}/{BUNDLE}" if _authorities(spec, settings) else None)
    if bundle is not None:
        plain |= dict.fromkeys(CA_BUNDLES, bundle)
    if claims(spec):
        plain[CLAIMS] = MOUNTED
    if spec.storage.addressing_style is not None:
        plain[STYLE] = spec.storage.addressing_style.value
    if spec.storage.requester_pays is not None:
        plain[PAYS] = str(spec.storage.requester_pays).lower()
    if spec.storage.azure_account is not None:
        plain["AZURE_STORAGE_ACCOUNT_NAME"] = spec.storage.azure_account
    if spec.storage.google_project is not None:
        plain["GOOGLE_CLOUD_QUOTA_PROJECT"] = spec.storage.google_project
    if spec.storage.endpoint_url:
        # Only for S3: the endpoint of STS, which receives the identity of the pod, must not change.
        plain["AWS_ENDPOINT_URL_S3"] = spec.storage.endpoint_url
    if spec.storage.region:
        plain |= {"AWS_REGION": spec.storage.region, "AWS_DEFAULT_REGION": spec.storage.region}
    entries: dict[str, dict[str, Any]] = {name: {"value": value} for name, value in sorted(plain.items())}
    entries |= {
        name: {"valueFrom": _dumped(source)}
        for name, source in settings.pod_env.items()
        if isinstance(source, EnvSource)
    }
    if spec.storage.credentials_secret_ref:
        secret = spec.storage.credentials_secret_ref.name
        needed, optional = secret_keys(spec)
        keys: dict[str, dict[str, Any]] = {key: {"name": secret, "key": key} for key in needed}
        keys |= {key: {"name": secret, "key": key, "optional": True} for key in optional}
        entries = {name: entry for name, entry in entries.items() if name not in keys}
        entries |= {name: {"valueFrom": {"secretKeyRef": reference}} for name, reference in keys.items()}
    for variable in own.env or ():
        entries.pop(variable.name, None)  # variables of the object come last, since they may refer to others
        entries[variable.name] = {"value": ""} | _dumped(variable)
        if variable.value_from is not None:
            del entries[variable.name]["value"]
    return [{"name": name} | entry for name, entry in entries.items()]


def _claims_to_write(own: PodSettings) -> bool:
    """Return True if the user mounts a writable claim, whose disk usually belongs to root."""
    claims = (volume.persistent_volume_claim for volume in own.volumes or ())
    return any(claim is not None and not claim.read_only for claim in claims)


def _authorities(spec: TeacherFineTuneSpec, settings: Settings) -> tuple[str, str] | None:
    """Return ConfigMap and key of the trusted certificates: the object's, else the installation's; None without any."""
    if spec.storage.ca_bundle_config_map_ref is not None:
        return spec.storage.ca_bundle_config_map_ref.name, spec.storage.ca_bundle_config_map_ref.key
    if spec.storage.ca_bundle is not None or not settings.ca_bundle_config_map:
        return None
    return settings.ca_bundle_config_map, settings.ca_bundle_key


def _disks(
    spec: TeacherFineTuneSpec, settings: Settings, trainer_job: str | None
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return volumes with their mounts: scratch disk, and for trainers also shared memory and the model cache."""
    scratch = {"name": "scratch", "mountPath": DISK}
    bounded = {"name": "scratch", "emptyDir": {"sizeLimit": spec.scratch.size or settings.scratch_size}}
    if trainer_job is None:
        return [(bounded, scratch)]
    disks: list[tuple[dict[str, Any], dict[str, Any]]] = []
    if spec.scratch.claim_name:
        claim = {"name": "scratch", "persistentVolumeClaim": {"claimName": spec.scratch.claim_name}}
        disks.append((claim, scratch | {"subPath": trainer_job}))
    else:
        disks.append((bounded, scratch))
    memory = {"medium": "Memory", "sizeLimit": spec.shared_memory or SHARED_MEMORY}
    disks.append(({"name": "shm", "emptyDir": memory}, {"name": "shm", "mountPath": "/dev/shm"}))  # noqa: S108
    if spec.model_cache:
        claim = {"name": "models", "persistentVolumeClaim": {"claimName": spec.model_cache.claim_name}}
        disks.append((claim, {"name": "models", "mountPath": MODELS}))
    return disks


def _placement(
    spec: TeacherFineTuneSpec, settings: Settings, own: PodSettings, labels: Mapping[str, str], *, inspects: bool
) -> dict[str, Any]:
    """Return the placement of a stage's pods.

    Nodes with GPUs are usually tainted with the name of their resource. Inspection tolerates that taint too, unless it
    has tolerations of its own: with the nodeSelector of the trainers it may only fit on such nodes.
    """
    tolerations = _listed(own.tolerations)
    if inspects:
        inherited = stage_spec(spec, INSPECTION).tolerations is None
        tolerates = inherited and (
            spec.gpus > 0
            or any(gpus_of(spec, stage_settings(spec, one, settings)) for one in stages.all_stages() if one.uses_gpu)
        )
    else:
        tolerates = bool(gpus_of(spec, own))
    if tolerates:
        tolerations.append({"key": spec.gpu_resource_name, "operator": "Exists"})
    same_job = {"labelSelector": {"matchLabels": dict(labels)}}
    placement: dict[str, Any] = {
        "nodeSelector": dict(own.node_selector or {}),
        "affinity": own.affinity,
        "tolerations": tolerations,
        "runtimeClassName": own.runtime_class_name,
        "priorityClassName": own.priority_class_name,
        "schedulerName": own.scheduler_name,
        "topologySpreadConstraints": [same_job | one for one in _listed(own.topology_spread_constraints)],
        "resourceClaims": [_dumped(claim, without={"gpus"}) for claim in own.resource_claims or ()],
    }
    return {name: value for name, value in placement.items() if value}


def _dumped(part: SpecModel, without: set[str] | None = None) -> dict[str, Any]:
    return part.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=without)


def _listed(parts: Sequence[SpecModel] | None) -> list[dict[str, Any]]:
    return [_dumped(part) for part in parts or ()]

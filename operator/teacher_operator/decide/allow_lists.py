"""Allow-lists of an installation for the objects of its users. Pure.

The ValidatingAdmissionPolicy of the chart checks the same lists when an object is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any

from engine import stages
from engine.errors import ConfigError
from teacher_operator.api.pod_settings import (
    ENV_MESSAGE,
    RESERVED_ENV,
    PodSpec,
    StageSpec,
    Toleration,
    TolerationOperator,
)
from teacher_operator.api.quantities import parse_quantity
from teacher_operator.api.settings import Allowed, Settings
from teacher_operator.api.spec import TeacherFineTuneSpec
from teacher_operator.api.stage_pod_settings import stage_settings
from teacher_operator.api.status import FailureStatus, clip
from teacher_operator.decide.claim_mounts import AWS_KEYS, AZURE_KEYS, GOOGLE_KEYS

NOT_ALLOWED = "NotAllowed"
"""Reason of a run with a setting that the installation does not allow: no Job is created until one of them changes."""

DEFAULT_ACCOUNT = "default"
"""Service account of a pod without an explicit one."""

EVERY = "*"
"""Replaces a key, value or effect that a toleration or affinity leaves open."""

GPU_TAINTS = ("nvidia.com/gpu", "nvidia.com/mig-*")
"""Taints of nodes with GPUs; every installation allows pods with these GPUs to tolerate them."""

KEYS_IN_SECRET = frozenset({*AWS_KEYS, "AWS_SESSION_TOKEN", *GOOGLE_KEYS, *AZURE_KEYS})


def refusal(spec: TeacherFineTuneSpec, settings: Settings, *, namespace: str) -> FailureStatus | None:
    """Return the reason why no Job is created for a valid spec; None if the installation allows all of it.

    Both the object and the installation may change: the run waits, at most for pendingDeadlineSeconds if that is set,
    and existing Jobs continue.

    Args:
        spec: Spec of the object.
        settings: Settings of the installation.
        namespace: Namespace of the object.
    """
    faults = chain(
        _account(spec, settings.allowed, namespace),
        _not_allowed(spec, settings),
        _placement(spec, settings.allowed),
        _disks(spec, settings.allowed),
        _contradictions(spec, settings),
    )
    return next(faults, None)


def _not_allowed(spec: TeacherFineTuneSpec, settings: Settings) -> Iterator[FailureStatus]:
    allowed = settings.allowed
    keys = spec.storage.credentials_secret_ref
    if keys is not None and not matches(keys.name, allowed.secrets):
        yield _refused(f"spec.storage.credentialsSecretRef: {keys.name}", "secrets", allowed.secrets)
    for where, pods in _pod_settings(spec):
        if pods.image is not None and not matches(pods.image, allowed.images):
            yield _refused(f"{where}.image: {pods.image}", "images", allowed.images)
        for volume in pods.volumes or ():
            (kind,) = volume.model_dump(by_alias=True, exclude_none=True, exclude={"name"}) or ("none",)
            if not matches(kind, allowed.volumes):
                yield _refused(f"{where}.volumes: {volume.name} is a {kind}", "volumes", allowed.volumes)
        for variable in pods.env or ():
            if not matches(variable.name, allowed.env):
                yield _refused(f"{where}.env: {variable.name}", "env", allowed.env)
        for name in _secrets(pods):
            if not matches(name, allowed.secrets):
                yield _refused(f"{where}: Secret {name}", "secrets", allowed.secrets)


def _contradictions(spec: TeacherFineTuneSpec, settings: Settings) -> Iterator[FailureStatus]:
    """Yield contradictions between different parts of the spec, which the CEL rules of the CRD cannot check."""
    for where, pods in _pod_settings(spec):
        for variable in pods.env or ():
            if re.search(RESERVED_ENV, variable.name):
                yield _contradiction(f"{where}.env: {variable.name}: {ENV_MESSAGE}")
            if spec.storage.credentials_secret_ref is not None and variable.name in KEYS_IN_SECRET:
                yield _contradiction(
                    f"{where}.env: {variable.name} is set by storage.credentialsSecretRef: remove one of the two"
                )
    mounted = any(part.volume_mounts for _, part in _pod_settings(spec))
    for stage in stages.all_stages() if mounted else ():
        own = stage_settings(spec, stage, settings)
        volumes = {volume.name for volume in own.volumes or ()}
        for mount in own.volume_mounts or ():
            if mount.name not in volumes:
                yield _contradiction(
                    f"volumeMounts of {stage.name}: volume {mount.name} of the mount {mount.mount_path} does not exist"
                )


def _pod_settings(spec: TeacherFineTuneSpec) -> Iterator[tuple[str, PodSpec]]:
    """Yield every part of a spec with pod settings, with its path."""
    yield "spec.pod", spec.pod
    for stage in spec.stages:
        yield f"spec.stages[{stage.name.value}]", stage


def _secrets(pods: PodSpec) -> Iterator[str]:
    """Yield the names of the Secrets that the pods would read."""
    for variable in pods.env or ():
        if variable.value_from is not None and variable.value_from.secret_key_ref is not None:
            yield variable.value_from.secret_key_ref.name
    for volume in pods.volumes or ():
        if volume.secret is not None:
            yield volume.secret.secret_name
        if volume.csi is not None and volume.csi.node_publish_secret_ref is not None:
            yield volume.csi.node_publish_secret_ref.name
        sources = (volume.projected or {}).get("sources")
        for source in sources if isinstance(sources, list) else ():
            secret = source.get("secret") if isinstance(source, dict) else None
            if isinstance(secret, dict):
                yield str(secret.get("name"))


def _account(spec: TeacherFineTuneSpec, allowed: Allowed, namespace: str) -> Iterator[FailureStatus]:
    name, known = spec.service_account_name or DEFAULT_ACCOUNT, allowed.service_accounts
    if not any(matches(f"{namespace}/{name}" if "/" in pattern else name, [pattern]) for pattern in known):
        named = name if spec.service_account_name else f"{name}, since none is named,"
        yield _refused(f"spec.serviceAccountName: {named} in namespace {namespace}", "serviceAccounts", known)


def _placement(spec: TeacherFineTuneSpec, allowed: Allowed) -> Iterator[FailureStatus]:
    """Yield refused classes, tolerations and node selectors, of the run and of each stage."""
    places: list[tuple[str, TeacherFineTuneSpec | StageSpec]] = [("spec", spec)]
    places += [(f"spec.stages[{stage.name.value}]", stage) for stage in spec.stages]
    implied = f"{spec.gpu_resource_name}={EVERY}:{EVERY}"  # pods tolerate the taint of that name implicitly
    if not (matches(spec.gpu_resource_name, GPU_TAINTS) or _is_tolerable(implied, allowed)):
        yield _refused(f"spec.gpuResourceName: {implied}", "tolerations", allowed.tolerations)
    for where, place in places:
        for field, name, kind, known in (
            ("priorityClassName", place.priority_class_name, "priorityClasses", allowed.priority_classes),
            ("runtimeClassName", place.runtime_class_name, "runtimeClasses", allowed.runtime_classes),
        ):
            if name is not None and not matches(name, known):
                yield _refused(f"{where}.{field}: {name}", kind, known)
        for text in map(_toleration_text, place.tolerations or ()):
            if not _is_tolerable(text, allowed):
                yield _refused(f"{where}.tolerations: {text}", "tolerations", allowed.tolerations)
        chosen = [("nodeSelector", f"{key}={value}") for key, value in (place.node_selector or {}).items()]
        chosen += [("affinity.nodeAffinity", text) for text in _node_affinity(place.affinity)]
        for field, text in chosen:
            if not matches(text, [_completed(pattern, "=*") for pattern in allowed.node_selectors]):
                yield _refused(f"{where}.{field}: {text}", "nodeSelectors", allowed.node_selectors)


def _is_tolerable(text: str, allowed: Allowed) -> bool:
    return matches(text, [_completed(pattern, "=*", ":*") for pattern in allowed.tolerations])


def _toleration_text(one: Toleration) -> str:
    """Return a toleration as ``key=value:effect``, with ``*`` for every part that it leaves open."""
    value = EVERY if one.operator is TolerationOperator.EXISTS else one.value or ""
    return f"{one.key or EVERY}={value}:{one.effect or EVERY}"


def _node_affinity(affinity: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield the node labels that an affinity selects, as ``key=value``; ``key=*`` for operators other than In.

    The affinity is not validated yet: parts of another form are ignored here, and refused by the API server when the
    Job is created.
    """
    nodes = _mapping(_mapping(affinity).get("nodeAffinity"))
    terms = _list(_mapping(nodes.get("requiredDuringSchedulingIgnoredDuringExecution")).get("nodeSelectorTerms"))
    preferred = _list(nodes.get("preferredDuringSchedulingIgnoredDuringExecution"))
    for term in [*terms, *(_mapping(one).get("preference") for one in preferred)]:
        for field in ("matchExpressions", "matchFields"):
            for one in map(_mapping, _list(_mapping(term).get(field))):
                values = _list(one.get("values")) if one.get("operator") == "In" else [EVERY]
                yield from (f"{one.get('key')}={value}" for value in values)


def _disks(spec: TeacherFineTuneSpec, allowed: Allowed) -> Iterator[FailureStatus]:
    """Yield emptyDirs larger than allowed. Those without a size have the default of the installation."""
    sizes = [("spec.scratch.size", spec.scratch.size)]
    for where, pods in _pod_settings(spec):
        for volume in pods.volumes or ():
            if volume.empty_dir is not None:
                sizes.append((f"{where}.volumes: {volume.name}", volume.empty_dir.size_limit))
    for what, size in sizes if allowed.scratch else ():
        if size is not None and parse_quantity(size) > parse_quantity(allowed.scratch):
            yield _refused(f"{what}: {size}", "scratch", [f"at most {allowed.scratch}"])


def _completed(pattern: str, *rest: str) -> str:
    """Return a pattern with wildcards added for the parts that it leaves open."""
    for part in rest:
        if part[0] not in pattern:
            at = pattern.find(":") if part[0] == "=" and ":" in pattern else len(pattern)
            pattern = pattern[:at] + part + pattern[at:]
    return pattern


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Return True if a name matches one of the patterns, with `*` and `?`."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _refused(what: str, kind: str, patterns: Sequence[str]) -> FailureStatus:
    allowed = f"it allows {', '.join(patterns)}" if patterns else "it allows none"
    return FailureStatus(
        reason=NOT_ALLOWED, message=clip(f"{what} is not allowed by this installation: {allowed} ({kind})")
    )


def _contradiction(message: str) -> FailureStatus:
    return FailureStatus(reason=ConfigError.reason, message=clip(message))
